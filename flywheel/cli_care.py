"""The commands with which an installation is looked after: backup, restore, migrate, storage, holds."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import Annotated

import typer
from rich.table import Table

from flywheel.command import AS_JSON, command, console
from flywheel.errors import ContractError

SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def size(count: float) -> str:
    """Bytes for people."""
    for unit in SIZES:
        if count < 1024 or unit == SIZES[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"


@command
def backup(to: Annotated[str, typer.Argument(help="a new folder, or s3://…")]) -> None:
    """Copy databases, registry and store, while everything runs; the manifest is written last."""
    from flywheel import backup as backups

    done = backups.backup(to)
    console.print(f"{len(done.databases)} databases and {done.files} files ({size(done.bytes)}) are in {to}", soft_wrap=True)
    console.print(f"the champion is version {done.champion}" if done.champion else "no champion was told of: none yet, or MLflow is away")


@command
def restore(
    source: Annotated[str, typer.Argument(metavar="FROM", help="what `backup` wrote")],
    check: Annotated[bool, typer.Option("--check", help="only read everything and compare it with the manifest")] = False,
) -> None:
    """Bring a backup back into an empty FLYWHEEL_HOME, or into an empty store and empty databases."""
    from flywheel import backup as backups

    told = backups.check(source)[0] if check else backups.restore(source)
    console.print(f"{'whole' if check else 'restored'}: {told.files} files ({size(told.bytes)}), {', '.join(told.databases)} of {told.at:%Y-%m-%d %H:%M} UTC")
    if told.champion:
        console.print(f"the champion is version {told.champion}, package {told.package[:12]}")
    if not check:
        console.print("start it with `make up`, then forget again whom it brought back: `python -m flywheel forget --again`", soft_wrap=True)


@command
def migrate(to: Annotated[int | None, typer.Option(help="take back what came after this migration; stop the processes of this version first")] = None) -> None:
    """Bring the ledger's tables to what this version of the code wants: before it is installed, so that no server waits for it."""
    from flywheel.ledger import schema

    if to is not None:
        undone = schema.go_back(to)
        console.print(f"took back {', '.join(f'{number:04d}' for number in undone)}" if undone else "nothing to take back")
        console.print(f"the ledger is at migration {to:04d}")
        return
    with schema.transaction() as db:  # the first one of a process migrates
        number = db.exec_driver_sql("select max(number) from migrations").scalar()
    console.print(f"the ledger is at migration {number:04d}")


@command
def storage(as_json: AS_JSON = False) -> None:
    """How large the store is, what of it is needed, and what the next housekeeping would delete."""
    from flywheel import config, retention
    from flywheel.settings import settings

    areas = retention.plan(config.load(settings().config).housekeep, datetime.now(UTC), retention.known()).areas()
    if as_json:
        return console.print_json(json.dumps(areas))
    table = Table(box=None, pad_edge=False)
    for column in ("", "files", "size", "needed", "may go"):
        table.add_column(column, justify="right" if column else "left")
    for name, area in areas.items():
        table.add_row(name, str(area["files"]), size(area["bytes"]), size(area["needed"]), size(area["removable"]))
    return console.print(table)


@command
def hold(
    reason: Annotated[str, typer.Option(help="goes into the audit log")],
    user: Annotated[str, typer.Option(help="all that a person asked and said")] = "",
    record: Annotated[str, typer.Option(help="one record of feedback, by its id or key")] = "",
    run: Annotated[str, typer.Option(help="a run's files, e.g. flywheel/manual__2026-11-27")] = "",
    dataset: Annotated[str, typer.Option(help="a data set version, by its id")] = "",
    version: Annotated[str, typer.Option(help="a model version, by its number")] = "",
    lift: Annotated[bool, typer.Option("--lift", help="end the hold")] = False,
) -> None:
    """Keep something, whatever retention or a wish to be forgotten says: a legal hold."""
    from flywheel.ledger import holds

    named = {"user": user, "record": record, "run": run.removeprefix("runs/").strip("/"), "dataset": dataset, "version": version}
    chosen = [(kind, name) for kind, name in named.items() if name]
    if len(chosen) != 1:
        raise ContractError("name what is to be held", where="hold", mend="Pass one of --user, --record, --run, --dataset and --version.")
    ((kind, name),) = chosen
    (holds.lift if lift else holds.hold)(kind, name, os.environ.get("USER", "operator"), reason)  # type: ignore[arg-type]
    console.print(f"{kind} {name} is {'no longer held' if lift else 'held'}", markup=False)


@command
def holds() -> None:
    """What is under a legal hold, by whom and why."""
    from flywheel.ledger import holds as all_of

    for row in all_of.all_holds():
        console.print(f"{row.at:%Y-%m-%d %H:%M}  {row.actor:12} {row.kind:8} {row.name}  {row.reason}", markup=False, soft_wrap=True)
