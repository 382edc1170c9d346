"""The audit log, and the lock under which the model registry is changed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import sqlalchemy as sa

from flywheel.ledger.schema import REGISTRY_LOCK, events, lock, transaction


@contextmanager
def registry_lock() -> Iterator[sa.Connection]:
    """One process at a time changes the model registry; a process that dies lets go. What it adds to the audit log commits at the end."""
    with transaction() as db:
        lock(db, REGISTRY_LOCK)
        yield db


def record_event(actor: str, action: str, *, within: sa.Connection | None = None, **detail: Any) -> None:
    """Add a line to the audit log, in a transaction of its own unless one is given."""
    with nullcontext(within) if within is not None else transaction() as db:
        db.execute(events.insert().values(actor=actor, action=action, detail=detail))


def list_events(limit: int = 50, action: str | None = None) -> list[dict[str, Any]]:
    """The audit log, or one kind of its entries, newest first."""
    chosen = sa.select(events).where(events.c.action == action) if action else sa.select(events)
    with transaction() as db:
        return [dict(row._mapping) for row in db.execute(chosen.order_by(events.c.number.desc()).limit(limit))]
