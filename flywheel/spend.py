"""What the stages have spent, week by week: one small file an attempt, finished or failed, in the object store."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime
from functools import lru_cache

from flywheel import store
from flywheel.manifest import Cost
from flywheel.settings import settings


def _folder(moment: datetime) -> str:
    year, week, _ = moment.isocalendar()
    return store.join(settings().store, "spend", f"{year}-W{week:02d}")


def record(stage: str, cost: Cost) -> None:
    """Add an attempt's cost to this week."""
    store.write_bytes(store.join(_folder(datetime.now(UTC)), f"{stage}-{uuid.uuid4().hex}.json"), cost.model_dump_json().encode())


@lru_cache(maxsize=4096)
def _attempt(uri: str) -> Cost:
    """One attempt's cost: the file is written once and never changed."""
    return Cost.model_validate_json(store.read_bytes(uri))


def weeks() -> list[str]:
    """The weeks in which something was spent, e.g. 2026-W09, newest first."""
    return sorted(store.list_names(store.join(settings().store, "spend")), reverse=True)


def by_stage(week: str = "") -> dict[str, Cost]:
    """What each stage's attempts have cost in an ISO week (UTC), or so far in this one."""
    folder = store.join(settings().store, "spend", week) if week else _folder(datetime.now(UTC))
    totals: dict[str, Cost] = {}
    for name in store.list_names(folder):
        stage = name.rpartition("-")[0]
        totals[stage] = totals.get(stage, Cost(currency=settings().currency)).plus(_attempt(store.join(folder, name)))
    return totals


def this_week() -> Cost:
    """Their sum."""
    total = Cost(currency=settings().currency)
    for cost in by_stage().values():
        total = total.plus(cost)
    return total
