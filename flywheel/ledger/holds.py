"""Legal holds: what must be kept, whatever else says that it should go. Each is set and lifted with an entry in the audit log."""

from __future__ import annotations

from typing import Any, get_args

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from flywheel.errors import ContractError, NotFound
from flywheel.ledger.events import record_event
from flywheel.ledger.schema import Kind, answers, feedback, holds, transaction


def hold(kind: Kind, name: str, actor: str, reason: str) -> None:
    """Keep a person's words (`user`), a record of feedback, a run (its key below `runs/`), a data set or a version. Twice is as good as once."""
    if kind not in get_args(Kind) or not name or not reason.strip():
        raise ContractError("what is to be held, or why, is missing", where="hold", mend=f"Name one of {', '.join(get_args(Kind))}, and a reason.")
    with transaction() as db:
        chosen = insert(holds).values(kind=kind, name=name, actor=actor, reason=reason).on_conflict_do_nothing()
        if db.execute(chosen).rowcount:
            record_event(actor, "hold", within=db, kind=kind, name=name, reason=reason)


def lift(kind: Kind, name: str, actor: str, reason: str) -> None:
    """Let go. Raises NotFound when there is no such hold."""
    with transaction() as db:
        if not db.execute(holds.delete().where(holds.c.kind == kind, holds.c.name == name)).rowcount:
            raise NotFound("there is no such hold", where=f"{kind} {name}", mend="`flywheel holds` lists them.")
        record_event(actor, "lift", within=db, kind=kind, name=name, reason=reason)


def all_holds() -> list[Any]:
    """Every hold, the newest first."""
    with transaction() as db:
        return list(db.execute(sa.select(holds).order_by(holds.c.at.desc())).all())


def names(db: sa.Connection, kind: Kind) -> set[str]:
    """What is held, of one kind."""
    return set(db.execute(sa.select(holds.c.name).where(holds.c.kind == kind)).scalars())


def held(db: sa.Connection) -> sa.ColumnElement[bool]:
    """Which rows of `feedback` are held: by their person, by who asked, or themselves."""
    people, records = names(db, "user"), names(db, "record")
    asked = sa.select(answers.c.id).where(answers.c.user.in_(people))
    named = sa.or_(feedback.c.id.in_(records), feedback.c.idempotency_key.in_(records))
    return sa.or_(sa.func.coalesce(feedback.c.user, "").in_(people), feedback.c.answer_id.in_(asked), named)
