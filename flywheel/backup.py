"""Backup and restore: databases, registry and object store in one folder, with a manifest written last.

    python -m flywheel backup s3://bucket/2026-11-27     while everything runs
    python -m flywheel restore s3://bucket/2026-11-27    into an empty FLYWHEEL_HOME, or an empty store and empty databases

A backup is whole because things are copied against the direction in which they point. Airflow's database first: a task that it calls done
has its manifest in the store. Then, while nobody may change the registry, the ledger and MLflow: a version has its files in MLflow's
artifacts and in the store. These last: what the databases name was written before them, so it is there. What was added meanwhile is copied
too and harms nobody; what the ledger does not know of `feedback/` is taken away again by the restore, since the ledger writes it anew.

Left out: secrets, logs, caches, and the Label Studio server's own database (the ledger has every decision).
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy as sa
from pydantic import BaseModel, Field, ValidationError

from flywheel import copying, ledger, registry, store
from flywheel.copying import File
from flywheel.errors import ContractError, TransientError
from flywheel.laptop import postgres, services
from flywheel.ledger import schema
from flywheel.settings import settings

SCHEMA_VERSION = 1
MANIFEST, FILES = "backup.json", "files.jsonl"
DATABASES = ("airflow", "flywheel", "mlflow")  # in this order; the last two while the registry is locked
HOME_FILES = ("config.yaml", "first_night")


class Backup(BaseModel):
    """The manifest. Without it, a folder is no backup."""

    schema_version: int = SCHEMA_VERSION
    at: datetime = Field(description="When the first database was read: the state that comes back is of a little later")
    migration: int = Field(description="The ledger's newest migration")
    databases: dict[str, dict[str, Any]] = Field(description="Dump of each, with bytes and SHA-256")
    files: int
    bytes: int
    list_sha256: str = Field(description="Of files.jsonl, which names every file")
    champion: int | None = Field(description="What was served; None: the base model, or nobody could say")
    package: str = Field("", description="SHA-256 of the champion's files")


def addresses() -> dict[str, sa.URL]:
    """Where each database is."""
    found = {name: sa.make_url(services.database_url(settings(), name, "psycopg")) for name in DATABASES}
    return found | {"flywheel": sa.make_url(settings().database_url)}


def folders() -> dict[str, str]:
    """The folders of files that are kept, by the name they have in a backup."""
    found = {"store": settings().store, "mlflow": settings().mlflow_artifacts}
    if _within(found["mlflow"], found["store"]):
        del found["mlflow"]
    return found


def backup(to: str) -> Backup:
    """Write a backup into a new folder or prefix. Raises ContractError when something is there already or it lies in what it copies."""
    to = to.rstrip("/")
    for name, root in folders().items():
        if _within(to, root) or _within(root, to):
            raise ContractError(f"a backup cannot lie in the {name} that it copies", where=to, mend="Name a folder or bucket elsewhere.")
    if copying.listing(to):
        raise ContractError("there is something already", where=to, mend="Name a new folder; delete this one if a backup was cut off in it.")
    began, where = datetime.now(UTC), addresses()
    champion, package = _champion()
    dumped = _dump("airflow", where["airflow"], to)
    with ledger.registry_lock():
        for name in DATABASES[1:]:
            dumped |= _dump(name, where[name], to)
    kept: dict[str, list[File]] = {name: copying.copy_tree(root, store.join(to, name)) for name, root in folders().items()}
    kept["home"] = [
        File(name, *_size_and_sum(copying.copy(str(settings().home / name), store.join(to, "home", name))))
        for name in HOME_FILES
        if (settings().home / name).exists()
    ]
    lines = [json.dumps({"part": part, "name": f.name, "bytes": f.bytes, "sha256": f.sha256}) for part, files in kept.items() for f in files]
    store.write_bytes(store.join(to, FILES), ("\n".join(lines) + "\n").encode())
    done = Backup(
        at=began, migration=schema.latest(), databases=dumped, files=len(lines), bytes=sum(f.bytes for files in kept.values() for f in files),
        list_sha256=copying.digest(store.join(to, FILES)).sha256, champion=champion, package=package,
    )  # fmt: skip
    store.write_bytes(store.join(to, MANIFEST), done.model_dump_json(indent=1).encode())
    return done


def check(source: str, *, deep: bool = True) -> tuple[Backup, dict[str, list[File]]]:
    """The manifest and the files by part. Raises ContractError for a half backup, or one that is damaged.

    Every file has to be there with its size; `deep` reads each and compares its SHA-256.
    """
    source = source.rstrip("/")
    whole = "Take an earlier backup: this one was cut off, or is none."
    try:
        told = Backup.model_validate_json(store.read_bytes(store.join(source, MANIFEST)))
    except FileNotFoundError as error:
        raise ContractError("there is no whole backup here: its manifest is missing", where=store.join(source, MANIFEST), mend=whole) from error
    except ValidationError as error:
        raise ContractError("its manifest cannot be read", where=store.join(source, MANIFEST), mend="Take an earlier backup.") from error
    if told.schema_version != SCHEMA_VERSION or told.migration > schema.latest():
        mend = "Restore it with the version of the code that wrote it, or a newer one."
        raise ContractError("a newer version of the code wrote this backup", where=store.join(source, MANIFEST), mend=mend)
    if copying.digest(store.join(source, FILES)).sha256 != told.list_sha256:
        raise ContractError("its content is not what the backup recorded", where=store.join(source, FILES), mend=whole)
    parts: dict[str, list[File]] = {"store": [], "mlflow": [], "home": []}
    for line in store.read_bytes(store.join(source, FILES)).decode().splitlines():
        one = json.loads(line) if line else {}
        if one:
            parts[one["part"]].append(File(one["name"], one["bytes"], one["sha256"]))
    parts["databases"] = [File(f"{name}.dump", dump["bytes"], dump["sha256"]) for name, dump in told.databases.items()]
    there = copying.listing(source)
    for part, files in parts.items():
        for file in files:
            if there.get(f"{part}/{file.name}", {}).get("size") != file.bytes:
                raise ContractError("this file is missing or has another size", where=store.join(source, part, file.name), mend=whole)
    for part in parts if deep else ("databases",):
        copying.verify(parts[part], store.join(source, part))
    return told, parts


def restore(source: str) -> Backup:
    """Bring a backup back into empty databases, an empty store and empty artifacts. Raises ContractError before anything is written when they are not.

    Files first, databases last and each in one transaction: whoever sees a version finds its files.
    """
    source = source.rstrip("/")
    told, parts = check(source, deep=False)
    for name, root in folders().items():
        if copying.listing(root):
            raise ContractError(f"the {name} is not empty", where=root, mend="Restore into an empty FLYWHEEL_HOME, or name an empty place.")
    where = addresses()
    with postgres.running(settings().home / "postgres", where["flywheel"]):
        for name in told.databases:
            _refuse_used(where[name])
        for name, root in folders().items():
            copying.bring(parts[name], store.join(source, name), root)
        copying.bring(parts["home"], store.join(source, "home"), str(settings().home))
        for name in told.databases:
            _load(name, where[name], source)
        _forget_files_of_later()
    return told


def _within(uri: str, root: str) -> bool:
    """Whether an address is this folder or lies in it."""
    one, other = (str(store.local_path(u)) if store.is_local(u) else u.rstrip("/") for u in (uri, root))
    return f"{one}/".startswith(f"{other}/")


def _champion() -> tuple[int | None, str]:
    try:
        found = registry.champion()
    except TransientError:  # nobody is kept from a backup because MLflow is away
        return None, ""
    return (found.version, found.package.sha256) if found else (None, "")


def _size_and_sum(file: File) -> tuple[int, str]:
    return file.bytes, file.sha256


def _dump(name: str, url: sa.URL, to: str) -> dict[str, dict[str, Any]]:
    """One database as one file in pg_dump's own format; nothing for one that the server does not have."""
    try:
        with postgres.connect(url, str(url.database)) as db:
            server = db.info.server_version // 10_000
    except psycopg.OperationalError as error:
        if "does not exist" in str(error):
            return {}
        raise _away(url) from error
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{name}.dump"
        _run(url, postgres.client("pg_dump", server), "--format=custom", "--no-owner", "--no-privileges", f"--file={path}")
        file = copying.copy(str(path), store.join(to, "databases", path.name))
    return {name: {"bytes": file.bytes, "sha256": file.sha256, "server": server}}


def _load(name: str, url: sa.URL, source: str) -> None:
    """Read one database in, in one transaction."""
    postgres.make_databases(url, [str(url.database)])
    with postgres.connect(url, "postgres") as db:
        server = db.info.server_version // 10_000
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / f"{name}.dump"
        copying.copy(store.join(source, "databases", path.name), str(path))
        _run(url, postgres.client("pg_restore", server), "--no-owner", "--no-privileges", "--no-comments", "--exit-on-error", "--single-transaction", str(path))


def _run(url: sa.URL, *command: str) -> None:
    plain = url.set(drivername="postgresql", password=None).render_as_string()
    environment = {**os.environ, **({"PGPASSWORD": str(url.password)} if url.password else {})}  # every process list shows arguments
    done = subprocess.run([*command, f"--dbname={plain}"], env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = next((line for line in done.stderr.splitlines() if line.strip()), f"it ended with {done.returncode}")
        raise TransientError(said, where=plain, mend="Mend what it says, then start again with an empty place.")


def _refuse_used(url: sa.URL) -> None:
    try:
        with postgres.connect(url, str(url.database)) as db:
            found = db.execute("select count(*) from pg_catalog.pg_tables where schemaname = 'public'").fetchone()
    except psycopg.OperationalError as error:
        if "does not exist" in str(error):
            return
        raise _away(url) from error
    if found and found[0]:
        where = url.render_as_string(hide_password=True)
        raise ContractError("this database is not empty", where=where, mend="Restore before the first `make up`, or into an empty database.")


def _away(url: sa.URL) -> TransientError:
    where = url.render_as_string(hide_password=True)
    return TransientError("the database does not answer", where=where, mend="Bring it back (`make up`), and check its address.")


def _forget_files_of_later() -> None:
    """Delete what was written into `feedback/` after the ledger was read: it does not know these files, and writes its own under their names."""
    with ledger.transaction() as db:
        sealed = set(db.execute(sa.select(schema.segments.c.name)).scalars())
        batches = {f"{ledger.batch_name(number)}.json" for number in db.execute(sa.select(schema.batches.c.id)).scalars()}
        open_ = sa.select(schema.feedback.c.segment).where(schema.feedback.c.batch.is_(None))
        claimed = sealed - set(db.execute(open_).scalars())
    known: Mapping[str, set[str]] = {ledger.SEGMENTS: sealed, ledger.CLAIMED: claimed, ledger.BATCHES: batches}
    for folder, names in known.items():
        root = store.join(settings().store, folder)
        for name in store.list_names(root):
            if name not in names:
                store.remove(store.join(root, name))
