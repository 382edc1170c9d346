"""Start, watch and stop the laptop stack. supervisord keeps the processes; this decides the order and waits for health.

Everything it keeps lies in FLYWHEEL_HOME (default `.flywheel/`): data in postgres/, mlflow/, store/; logs in logs/.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import xmlrpc.client
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from rich.console import Console
from rich.table import Table
from supervisor.xmlrpc import SupervisorTransport

from flywheel import store
from flywheel.errors import ContractError, FlywheelError, TransientError, from_os_error
from flywheel.laptop import postgres, processes
from flywheel.laptop import services as parts
from flywheel.laptop.services import Service
from flywheel.settings import REPOSITORY, Settings, settings

HEALTH_SECONDS = 600
console = Console(highlight=False)


def runtime_folder() -> Path:
    """A short private folder for the control socket (a Unix socket's path may have 107 characters)."""
    name = hashlib.sha256(str(settings().home).encode()).hexdigest()[:12]
    folder = Path(tempfile.gettempdir()) / f"flywheel-{os.getuid()}-{name}"
    folder.mkdir(mode=0o700, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise ContractError("this folder belongs to someone else", where=str(folder), mend="Remove it, or set TMPDIR.")
    return folder


def supervisor() -> Any:
    """supervisord's XML-RPC, or None when it does not run."""
    path = runtime_folder() / "control.sock"
    proxy = xmlrpc.client.ServerProxy("http://127.0.0.1", transport=SupervisorTransport(None, None, f"unix://{path}"))
    try:
        proxy.supervisor.getState()
    except (OSError, http.client.HTTPException, xmlrpc.client.Error):
        return None
    return proxy.supervisor


def up() -> None:
    """Start what does not run, in order, and wait until all of it is healthy; harmless when it is up already."""
    began = time.monotonic()
    try:
        _prepare(settings())
        settings.cache_clear()  # what was just written decides some defaults
        conf = settings()
        wanted = parts.services(conf)
        control = supervisor()
        if control is not None and {p["name"] for p in control.getAllProcessInfo()} != {s.name for s in wanted}:
            console.print("the stack that runs is another version's: restarting it")
            down()
            control = None
        if control is None:
            processes.end(str(settings().home))
            _refuse_taken_ports(wanted)
            control = _start_supervisor(wanted)
        _start(control, wanted[0])
        _wait(control, [wanted[0]])
        postgres.make_databases(sa.make_url(conf.database_url), parts.DATABASES)
        for service in wanted:
            if not service.after_migration:
                _start(control, service)
        if any(_state(control, s) != "RUNNING" for s in wanted if s.after_migration):
            _migrate_airflow(conf)
        for service in wanted:
            _start(control, service)
        _wait(control, wanted[1:])
    except OSError as error:
        raise from_os_error(error) from error
    console.print(f"the stack is up after {time.monotonic() - began:.0f} s")


def down() -> None:
    """Stop everything, the youngest first, and leave no process behind."""
    control = supervisor()
    if control is not None:
        with console.status("stopping"):
            for info in sorted(control.getAllProcessInfo(), key=lambda info: -info["start"]):
                if info["statename"] in ("RUNNING", "STARTING", "BACKOFF"):
                    with suppress(xmlrpc.client.Fault):  # it may have ended by itself a moment before
                        control.stopProcess(info["name"])
            control.shutdown()
            until = time.monotonic() + 30
            while supervisor() is not None and time.monotonic() < until:
                time.sleep(0.2)
    processes.end(str(settings().home))
    shutil.rmtree(runtime_folder(), ignore_errors=True)
    console.print("the stack is down")


def status() -> bool:
    """Print each service's state, health, memory and address; True when all are healthy."""
    control = supervisor()
    table = Table(box=None, pad_edge=False)
    for column in ("service", "state", "health", "since", "memory", "address"):
        table.add_column(column)
    good = control is not None
    for service in parts.services(settings()):
        info: dict[str, Any] = control.getProcessInfo(service.name) if control else {"statename": "STOPPED", "pid": 0}
        healthy = info["pid"] > 0 and service.healthy()
        good &= healthy
        since = f"{(info['now'] - info['start']) // 60} min" if info["pid"] else ""
        health = "[green]healthy" if healthy else "[red]not healthy" if info["pid"] else ""
        table.add_row(service.name, info["statename"].lower(), health, since, _memory(info["pid"]), service.url)
    console.print(table)
    free = shutil.disk_usage(settings().home if settings().home.exists() else REPOSITORY).free
    console.print(f"\nstore {settings().store} · {free / 2**30:.0f} GiB free · logs {settings().home / 'logs'}", soft_wrap=True)
    return good


def log_files(name: str | None) -> list[Path]:
    """The log of one service, or of all. Raises ContractError for a name that is none."""
    names = [s.name for s in parts.services(settings())]
    if name and name not in names:
        raise ContractError("there is no such service", where=name, mend=f"Choose one of {', '.join(names)}.")
    return [settings().home / "logs" / f"{n}.log" for n in ([name] if name else names)]


def _memory(pid: int) -> str:
    if not pid:
        return ""
    try:
        process = psutil.Process(pid)
        total = sum(p.memory_info().rss for p in [process, *process.children(recursive=True)])
    except psutil.Error:
        return ""
    return f"{total / 2**20:.0f} MiB"


def _prepare(conf: Settings) -> None:
    for folder in (conf.home, conf.home / "logs", conf.home / "mlflow"):
        folder.mkdir(parents=True, exist_ok=True)
    if not (conf.home / "first_night").exists():  # or unpausing would start yesterday's turn at once
        store.write_bytes(str(conf.home / "first_night"), f"{datetime.now(UTC):%Y-%m-%d}\n".encode())
    parts.secret(conf.home, "links")
    own = conf.home / "config.yaml"
    if not own.exists():
        text = f"# Your turn: every key is in {REPOSITORY / 'config' / 'flywheel.yaml'} and flywheel/config/.\nextends: '{REPOSITORY / 'config' / 'flywheel.yaml'}'\n"
        store.write_bytes(str(own), text.encode())
    postgres.initialise(conf.home / "postgres")


def _migrate_airflow(conf: Settings) -> None:
    """Once for each set of locked packages: even with nothing to do it takes as long as starting Airflow."""
    done = conf.home / "postgres" / "airflow-is-at"  # in there, so that it goes when the database goes
    wanted = (REPOSITORY / "requirements" / "airflow.txt").read_bytes()
    if done.exists() and done.read_bytes() == wanted:
        return
    environment = {**os.environ, **parts.shared_environment(conf), **parts.airflow_environment(conf)}
    with console.status("preparing Airflow's database"):
        _run("airflow-migrate", [parts.airflow_python(), "-m", "airflow", "db", "migrate"], environment)
    store.write_bytes(str(done), wanted)


def _run(name: str, command: list[str], environment: dict[str, str], **options: Any) -> None:
    """A command of ours that must succeed; its words are in its log."""
    log = settings().home / "logs" / f"{name}.log"
    with open(log, "w") as file:
        done = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, **options)
    if done.returncode:
        last = next((line for line in reversed(log.read_text(errors="replace").splitlines()) if line.strip()), "")
        raise TransientError(f"{name} ended with {done.returncode}: {last}", where=str(log), mend="Read that log; mend what it says and run `make up` again.")


def _taken_by(number: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN and connection.laddr.port == number and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""


def _refuse_taken_ports(wanted: list[Service]) -> None:
    for service in wanted:
        if not service.url:
            continue
        number = parts.port(service.url)
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex((postgres.HOST, number)) == 0:
                mend = f"Stop it, or give {service.name} another port with {service.setting}."
                raise ContractError(f"port {number} is taken{_taken_by(number)}", where=service.name, mend=mend)


def _configuration(wanted: list[Service]) -> str:
    """supervisord.conf: nothing starts by itself, everything is restarted when it dies."""
    home, runtime = settings().home, runtime_folder()

    def quote(text: str) -> str:
        return text.replace("%", "%%")

    lines = [
        "[supervisord]", f"logfile={quote(str(home / 'logs' / 'supervisord.log'))}", f"pidfile={runtime / 'supervisord.pid'}", f"directory={quote(str(REPOSITORY))}",
        "[unix_http_server]", f"file={runtime / 'control.sock'}", "chmod=0600",
        "[rpcinterface:supervisor]", "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
    ]  # fmt: skip
    for service in wanted:
        # PostgreSQL's children end by themselves, and its user may not be allowed to read this repository
        runner = [] if service.user else [sys.executable, "-m", "flywheel.laptop.processes", service.name]
        environment = {**parts.shared_environment(settings()), **service.environment, processes.MARK: service.name}
        pairs = ",".join('{}="{}"'.format(k, v.replace("\\", "\\\\").replace('"', '\\"')) for k, v in environment.items())
        lines += [
            f"[program:{service.name}]", f"command={quote(shlex.join([*runner, *service.command]))}", f"environment={quote(pairs)}",
            "autostart=false", "autorestart=true", "startsecs=2", "startretries=20", "stopasgroup=%s" % ("false" if service.name == "postgres" else "true"), "killasgroup=true",
            f"stopsignal={service.stop_signal}", "stopwaitsecs=25", "redirect_stderr=true", f"stdout_logfile={quote(str(home / 'logs' / f'{service.name}.log'))}",
            "stdout_logfile_maxbytes=20MB", "stdout_logfile_backups=2", *([f"user={service.user}"] if service.user else []),
        ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _start_supervisor(wanted: list[Service]) -> Any:
    path = runtime_folder() / "supervisord.conf"
    path.touch(mode=0o600)
    path.write_text(_configuration(wanted))
    environment = {**os.environ, "FLYWHEEL_HOME": str(settings().home), processes.MARK: "supervisord"}
    _run("supervisord-start", [sys.executable, "-m", "supervisor.supervisord", "-c", str(path)], environment, cwd=REPOSITORY)
    until = time.monotonic() + 20
    while time.monotonic() < until:
        control = supervisor()
        if control is not None:
            return control
        time.sleep(0.1)
    raise TransientError(
        "the process manager did not start", where=str(settings().home / "logs" / "supervisord.log"), mend="Read that log, then run `make up` again."
    )


def _state(control: Any, service: Service) -> str:
    return str(control.getProcessInfo(service.name)["statename"])


def _start(control: Any, service: Service) -> None:
    if _state(control, service) in ("STOPPED", "EXITED", "FATAL"):
        control.startProcess(service.name, False)


def _wait(control: Any, wanted: list[Service]) -> None:
    """Until each is healthy. Raises TransientError with the end of its log when one gives up."""
    began = time.monotonic()
    left = list(wanted)
    with console.status("") as line:
        while left:
            line.update(f"waiting for {', '.join(s.name for s in left)}")
            for service in list(left):
                if _state(control, service) == "FATAL" or time.monotonic() - began > HEALTH_SECONDS:
                    raise _unhealthy(service)
                if service.healthy():
                    console.print(f"  {service.name:18} ready  {service.url}")
                    left.remove(service)
            time.sleep(1)


def _unhealthy(service: Service) -> FlywheelError:
    path = settings().home / "logs" / f"{service.name}.log"
    words = path.read_text(errors="replace").splitlines()[-12:] if path.exists() else []
    console.print("\n".join(f"  {service.name} | {line}" for line in words), markup=False)
    return TransientError(f"{service.name} does not become healthy", where=str(path), mend=f"Read `make logs S={service.name}`, then run `make up` again.")
