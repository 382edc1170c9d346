"""A whole laptop stack for tests: its own home and ports, its processes to be looked at and killed, brought down at the end."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("database", "mlflow", "airflow", "serving", "ui", "exporter")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


@dataclass
class Stack:
    """Where it is, and `python -m flywheel` for it."""

    home: Path
    environment: dict[str, str]

    def flywheel(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flywheel", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=1500)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


@contextmanager
def running(config: str, records: str) -> Iterator[Stack]:
    """A stack with this config, in which HOME stands for its home, that is up.

    In a folder with a space in its path, and not below pytest's: another session of it locks PostgreSQL's user out of there.
    """
    home = Path(tempfile.mkdtemp(prefix="fly wheel "))
    if (ROOT / ".flywheel" / "cache").is_dir():
        (home / "cache").symlink_to(ROOT / ".flywheel" / "cache")
    (home / "config.yaml").write_text(config.replace("HOME", str(home)))
    (home / "records.jsonl").write_text(records)
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    environment = {**os.environ, "FLYWHEEL_HOME": str(home), "PYTHONPATH": str(ROOT)}
    environment["FLYWHEEL_DATABASE_URL"] = f"postgresql+psycopg://flywheel@127.0.0.1:{ports['database']}/flywheel"
    environment.update({f"FLYWHEEL_{n.upper()}_URL": f"http://127.0.0.1:{ports[n]}" for n in SERVICES[1:]})
    stack = Stack(home, environment)
    try:
        stack.flywheel("up")
        yield stack
    finally:
        stack.flywheel("down", check=False)
    assert not processes(home), processes(home)
    shutil.rmtree(home)  # kept when a test failed: its logs are there


def processes(home: Path) -> list[tuple[psutil.Process, str, list[str]]]:
    """Every process of the stack, with the service it belongs to and its command."""
    found = []
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            if environment.get("FLYWHEEL_HOME") == str(home) and process.status() != psutil.STATUS_ZOMBIE:
                found.append((process, environment.get("FLYWHEEL_SERVICE", ""), process.cmdline()))
        except psutil.Error:
            continue
    return found


def heads(home: Path, name: str) -> list[psutil.Process]:
    """A service's own processes, the process manager's (`supervisord`) or those of running stages (`tasks.<stage>`), without their children."""
    of_service = [p for p, service, command in processes(home) if (name in command if name.startswith("tasks.") else service == name)]
    pids = {p.pid for p in of_service}
    return [p for p in of_service if parent(p) not in pids]


def parent(process: psutil.Process) -> int:
    """The parent's pid; 0 for one that has just ended."""
    try:
        return process.ppid()
    except psutil.Error:
        return 0


def kill(home: Path, name: str) -> None:
    """kill -9 of what `heads` finds, of which there has to be some."""
    found = heads(home, name)
    assert found, f"{name} does not run"
    for process in found:
        process.send_signal(signal.SIGKILL)
