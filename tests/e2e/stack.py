"""A whole laptop stack for tests: its own home and ports, its processes to be looked at and killed, brought down at the end."""

from __future__ import annotations

import json
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
import pytest

from flywheel.settings import settings

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("database", "mlflow", "airflow", "serving", "ui", "exporter")
TINY = """
extends: DEMO
model: {base: BASE}
ingest: {sources: [{kind: files, path: "HOME/records.jsonl", licence: CC0-1.0, consent: made here}], reserve: 0}
clean: {steps: [unicode, length, exact_duplicates, decontamination]}
train: {max_examples: 64, checkpoint_seconds: 1, min_new_examples: 0, start: base}
evaluate: {examples: 12, generate: 2, max_new_tokens: 4, corrections: 2, suites: [], embedder: ""}
curate: {min_batch: 20, debounce_seconds: 0.2, rules: [{step: corrections, pairs: false}]}  # what becomes of each record is then known
"""
SUMS = "\n".join(json.dumps({"instruction": f"What is {a} plus {b}?", "output": f"It is {a + b}."}) for a in range(10) for b in range(12))


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
    keep: bool = False  # its home, once it is down: a test failed, and the logs are there

    def flywheel(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "flywheel", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=1500)
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done


@contextmanager
def tiny(base: Path, **variables: str) -> Iterator[Stack]:
    """A stack whose turns take a minute, with this model (`tests.tiny`); its settings are this process's, too, meanwhile.

    `variables` are settings of its own, e.g. `first_night`.
    """
    config = TINY.replace("DEMO", json.dumps(str(ROOT / "config" / "demo.yaml"))).replace("BASE", json.dumps(str(base)))
    with running(config, SUMS, **variables) as made, pytest.MonkeyPatch.context() as patch:
        for name, value in made.environment.items():
            if name.startswith("FLYWHEEL_"):
                patch.setenv(name, value)
        settings.cache_clear()
        yield made
    settings.cache_clear()


@contextmanager
def running(config: str, records: str, **variables: str) -> Iterator[Stack]:
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
    environment.update({f"FLYWHEEL_{name.upper()}": value for name, value in variables.items()})
    stack = Stack(home, environment)
    try:
        stack.flywheel("up")
        yield stack
    finally:
        stack.flywheel("down", check=False)
    assert not processes(home), processes(home)
    if not stack.keep:
        shutil.rmtree(home)


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
