"""What the stages have spent, week by week: one small file an attempt, finished or failed, in the object store."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

from flywheel import store
from flywheel.manifest import Cost
from flywheel.settings import settings


def _folder(moment: datetime) -> str:
    year, week, _ = moment.isocalendar()
    return store.join(settings().store, "spend", f"{year}-W{week:02d}")


def record(stage: str, cost: Cost) -> None:
    """Add an attempt's cost to this week."""
    store.write_bytes(store.join(_folder(datetime.now(UTC)), f"{stage}-{uuid.uuid4().hex}.json"), cost.model_dump_json().encode())


def this_week() -> Cost:
    """The sum of what this ISO week's attempts (UTC) have cost so far."""
    folder = _folder(datetime.now(UTC))
    total = Cost(currency=settings().currency)
    for name in store.list_names(folder):
        total = total.plus(Cost.model_validate_json(store.read_bytes(store.join(folder, name))))
    return total
