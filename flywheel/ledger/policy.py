"""Who accepted the usage policy, in which version. A person is asked again when its text changes."""

from __future__ import annotations

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from flywheel.ledger.schema import acceptances, transaction


def accept(user: str, policy: str) -> None:
    """Record it; twice is as good as once, and the first moment stays."""
    with transaction() as db:
        db.execute(insert(acceptances).values(user=user, policy=policy).on_conflict_do_nothing())


def accepted(user: str, policy: str) -> datetime | None:
    """When this person accepted this version, or None."""
    with transaction() as db:
        return db.execute(sa.select(acceptances.c.at).where(acceptances.c.user == user, acceptances.c.policy == policy)).scalar()
