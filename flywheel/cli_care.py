"""The commands with which an installation is looked after: backup, restore, migrate."""

from __future__ import annotations

from typing import Annotated

import typer

from flywheel.command import command, console

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
