"""`python -m flywheel backfill` and `watch`: nights that are made up for, and what nobody noticed."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from flywheel.airflow_api import AirflowApi, Conflict
from flywheel.command import command, console
from flywheel.errors import ContractError
from flywheel.settings import settings

AGAIN = ("none", "failed", "completed")


@command
def backfill(
    first: Annotated[str, typer.Argument(help="night, as 2026-01-02")],
    last: Annotated[str, typer.Argument(help="the last of them")],
    dry_run: Annotated[bool, typer.Option(help="say what it would do and cost, and do nothing")] = False,
    at_once: Annotated[int, typer.Option(min=1, help="nights at a time; training is one at a time all the same")] = 2,
    again: Annotated[str, typer.Option(help="which nights that have a run are done again: none, failed or completed")] = "failed",
    rollout: Annotated[bool, typer.Option(help="roll out what the gate promotes, too")] = False,
    set: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="change one setting for all of them")] = None,
    wait: Annotated[bool, typer.Option(help="until all of them have ended")] = False,
) -> None:
    """Make up for nights: rebuilt from the data of then, registered, not rolled out. The same command again goes on where it was cut off."""
    from flywheel import backfill as backfills

    if again not in AGAIN:
        raise ContractError(f"--again {again} is not known", mend=f"Use one of {', '.join(AGAIN)}.")
    api = AirflowApi()
    found = backfills.plan(api, first, last, at_once, again)
    console.print(f"{len(found.nights)} nights: {', '.join(found.nights[:10])}{' …' if len(found.nights) > 10 else ''}", soft_wrap=True)
    if found.money is not None and found.hours is not None:
        console.print(
            f"about {found.money:.2f} {settings().currency} and {found.hours:.1f} hours, from the last {found.of} turns; what is found done costs less"
        )
    else:
        console.print("what it costs is not known: no turn has been summed up yet")
    if dry_run:
        return
    try:
        number = backfills.start(api, first, last, at_once, again, rollout, set or [])
    except Conflict as error:
        raise ContractError("a backfill of this DAG goes on", where="backfill", mend="Wait for it, or pause or cancel it in Airflow.") from error
    console.print(f"backfill {number} has begun: {settings().airflow_url}/dags/flywheel/backfills", soft_wrap=True)
    while wait and not api.backfill_ended(number):
        time.sleep(5)


@command
def watch() -> None:
    """Look once for what nobody noticed, tell people what is new, and start a turn for feedback that none would learn."""
    from flywheel import watch as watching

    for line in watching.once():
        console.print(line, markup=False, soft_wrap=True)
