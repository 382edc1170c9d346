"""Nights that are made up for: what they would cost, and the start of a backfill in Airflow.

    python -m flywheel backfill 2026-01-02 2026-01-31 --dry-run
    python -m flywheel backfill 2026-01-02 2026-01-31 --at-once 4

A backfilled night is registered, never rolled out unless asked. The same command again goes on where it was cut off: nights that have a
run are left, those that failed are done again.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from datetime import UTC, date, datetime, time

from flywheel import manifest, store
from flywheel.airflow_api import AirflowApi
from flywheel.errors import ContractError, DataError
from flywheel.settings import settings
from flywheel.turn import DAG
from flywheel.watch import newest_runs


@dataclass(frozen=True)
class Plan:
    """What a backfill would do; `money` and `hours` are None when no turn has been summed up yet."""

    nights: list[str]
    money: float | None
    hours: float | None
    of: int  # turns that the estimate is made from


def _range(first: str, last: str) -> tuple[datetime, datetime]:
    """The whole of both nights. Raises ContractError for what is no date, or the wrong way round."""
    try:
        began, ended = date.fromisoformat(first), date.fromisoformat(last)
    except ValueError as error:
        raise ContractError(f"{error}", where="backfill", mend="Write nights as 2026-01-31.") from error
    if ended < began:
        raise ContractError(f"{last} is before {first}", where="backfill", mend="Name the first night first.")
    if began < date.fromisoformat(settings().first_night):
        raise ContractError(
            f"{first} is before the first night, {settings().first_night}",
            where="backfill",
            mend="Set FLYWHEEL_FIRST_NIGHT to an earlier one, and restart Airflow.",
        )
    return datetime.combine(began, time.min, UTC), datetime.combine(ended, time.max, UTC).replace(microsecond=0)


def plan(api: AirflowApi, first: str, last: str, at_once: int, again: str) -> Plan:
    """What would be run, and what the median of the last turns makes of it; what is found done already costs less."""
    nights = sorted(night[:10] for night in api.nights(DAG, *_range(first, last), again))
    spent = []
    for run in newest_runs():
        if store.exists(manifest.manifest_uri(run, "summary")):
            told = manifest.read_for(run, "summary").metrics
            if told["ended"] not in ("failed", "skipped"):
                spent.append((float(told["money"] or 0), float(told["seconds"] or 0)))
    if not spent:
        return Plan(nights, None, None, 0)
    money, seconds = (statistics.median(column) for column in zip(*spent, strict=True))
    return Plan(nights, len(nights) * money, len(nights) * seconds / 3600 / at_once, len(spent))


def start(api: AirflowApi, first: str, last: str, at_once: int, again: str, rollout: bool, set: list[str]) -> int:
    """Start it; its number. Raises DataError when no night is left to do."""
    began, ended = _range(first, last)
    if not api.nights(DAG, began, ended, again):
        raise DataError("every night between these has its run", where="backfill", mend="With --again completed they are done anew.")
    return api.backfill(DAG, began, ended, {"set": set, **({"rollout": "yes"} if rollout else {})}, at_once, again)
