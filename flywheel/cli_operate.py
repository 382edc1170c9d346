"""The commands with which an operator changes what is served and what runs; each leaves an entry in the audit log (`flywheel events`)."""

from __future__ import annotations

import json
import os
from typing import Annotated

import typer
from rich.table import Table

from flywheel.command import AS_JSON, command, console

REASON = Annotated[str, typer.Option(help="goes into the audit log")]
VERSION = Annotated[int, typer.Argument(help="as `flywheel versions` lists it")]
DAG = Annotated[list[str] | None, typer.Option("--dag", help="by default flywheel and feedback; may be repeated")]


def actor() -> str:
    """Who types, for the audit log."""
    return os.environ.get("USER", "operator")


@command
def rollback(
    to: Annotated[int | None, typer.Option(help="version number; by default the one served before")] = None,
    reason: Annotated[str, typer.Option(help="goes into the audit log")] = "by hand",
) -> None:
    """Serve an earlier version again; servers follow within seconds."""
    from flywheel import registry

    target = registry.rollback(actor(), reason, to)
    console.print(f"version {target} is the champion now; serving follows within seconds")


@command
def promote(version: VERSION, reason: REASON) -> None:
    """Make a version the champion at once, without a trial; servers follow within seconds."""
    from flywheel import operations

    operations.promote(version, actor(), reason)
    console.print(f"version {version} is the champion now; serving follows within seconds")


@command
def retire(version: VERSION, reason: REASON) -> None:
    """Never serve a version again; housekeeping may then delete its files, unless a living version descends from it."""
    from flywheel import operations

    operations.retire(version, actor(), reason)
    console.print(f"version {version} is never served again")


@command
def pause(reason: REASON, dag: DAG = None) -> None:
    """Let no new turn and no new batch begin; what runs goes on to its end."""
    _pause(reason, dag, paused=True)


@command
def resume(reason: REASON, dag: DAG = None) -> None:
    """Let turns and batches begin again."""
    _pause(reason, dag, paused=False)


def _pause(reason: str, dags: list[str] | None, *, paused: bool) -> None:
    from flywheel import operations

    changed = operations.pause(actor(), reason, dags or operations.DAGS, paused=paused)
    verb = "paused" if paused else "resumed"
    console.print(f"{verb} {', '.join(changed)}" if changed else f"nothing to be {verb}: it is so already")


@command
def costs(weeks: Annotated[int, typer.Option(min=1, help="so many of the last in which something was spent")] = 4, as_json: AS_JSON = False) -> None:
    """What each stage has cost, week by week (ISO, UTC), and each version."""
    from flywheel import registry, spend
    from flywheel.errors import TransientError
    from flywheel.manifest import Cost
    from flywheel.settings import settings

    found = {week: spend.by_stage(week) for week in spend.weeks()[:weeks]}
    try:
        versions = {v.version: v.cost for v in registry.versions()}
    except TransientError:  # the registry is away: what was spent is in the store
        versions = {}
    if as_json:
        told = {
            "weeks": {w: {s: c.model_dump() for s, c in stages.items()} for w, stages in found.items()},
            "versions": {v: c.model_dump() for v, c in versions.items()},
        }
        return console.print_json(json.dumps(told))
    table = Table(box=None, pad_edge=False)
    for column in ("", "", "CPU h", "GPU h", settings().currency):
        table.add_column(column, justify="right" if len(column) > 1 else "left")

    def row(name: str, what: str, cost: Cost) -> None:
        table.add_row(name, what, f"{cost.cpu_seconds / 3600:.2f}", f"{cost.gpu_seconds / 3600:.2f}", f"{cost.money:.4f}")

    for week, stages in found.items():
        total = Cost(currency=settings().currency)
        for name, cost in sorted(stages.items(), key=lambda pair: -pair[1].money):
            row(week if not total.wall_seconds else "", name, cost)
            total = total.plus(cost)
        row("", "all", total)
    for number, cost in versions.items():
        row(f"version {number}", "its turn", cost)
    return console.print(table if found or versions else "nothing has been spent yet")
