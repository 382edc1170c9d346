"""The feedback ledger in PostgreSQL: answers, what people said of them, sealed segments, claimed batches, and events.

Feedback is acknowledged only after its commit. It leaves in two steps that may each be killed at any point:
a *segment* (a JSONL file in the object store, what the sensor watches) and a *batch* (the feedback one curation took).
Each record is in exactly one segment and at most one batch.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.exc import OperationalError

from flywheel import store
from flywheel.errors import ContractError, NotFound, TransientError
from flywheel.records import Feedback, FeedbackIn
from flywheel.settings import settings

SEAL_LOCK, CLAIM_LOCK, SCHEMA_LOCK, REGISTRY_LOCK = 7101, 7102, 7103, 7104
SEGMENTS, CLAIMED, BATCHES, WAITING = "feedback/segments", "feedback/claimed", "feedback/batches", "feedback/waiting.json"

tables = sa.MetaData()
answers = sa.Table(
    "answers",
    tables,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("response", sa.Text, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False, index=True),
    sa.Column("user", sa.Text, nullable=False),
)
feedback = sa.Table(
    "feedback",
    tables,
    sa.Column("number", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column("idempotency_key", sa.Text, nullable=False, unique=True),
    sa.Column("answer_id", sa.Text, sa.ForeignKey("answers.id"), nullable=False, index=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("body", JSONB, nullable=False),
    sa.Column("segment", sa.Text, index=True),
    sa.Column("batch", sa.BigInteger, sa.ForeignKey("batches.id"), index=True),
)
segments = sa.Table(
    "segments",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("sealed", sa.DateTime(timezone=True)),
)
batches = sa.Table(
    "batches",
    tables,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("finished", sa.Boolean, nullable=False, server_default=sa.false()),
)
events = sa.Table(
    "events",
    tables,
    sa.Column("number", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("at", sa.DateTime(timezone=True), nullable=False, server_default=sa.func.now()),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("detail", JSONB, nullable=False),
)


@lru_cache(maxsize=4)
def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, pool_pre_ping=True, pool_size=8, connect_args={"connect_timeout": 5})
    with engine.begin() as db:
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(SCHEMA_LOCK)))  # two processes may start at once
        tables.create_all(db)
    return engine


@contextmanager
def transaction() -> Iterator[sa.Connection]:
    """A transaction on the one PostgreSQL. Raises TransientError when it cannot be reached."""
    try:
        with _engine(settings().database_url).begin() as db:
            yield db
    except OperationalError as error:
        where = sa.make_url(settings().database_url).render_as_string(hide_password=True)
        raise TransientError("the database does not answer", where=where, mend="Bring it back (`make up`), then send it again: nothing was stored.") from error


def add_answer(prompt: str, input: str, response: str, model_version: str, user: str = "anonymous") -> str:
    """Store what was asked and answered; returns the answer's id."""
    answer_id = uuid.uuid4().hex
    with transaction() as db:
        db.execute(answers.insert().values(id=answer_id, prompt=prompt, input=input, response=response, model_version=model_version, user=user))
    return answer_id


def add_feedback(given: FeedbackIn) -> tuple[str, bool]:
    """Commit feedback; returns its id and whether it is new (False: the same key was stored before).

    Raises NotFound for an unknown answer, ContractError for a key that was used for something else.
    """
    body = given.model_dump(mode="json")
    with transaction() as db:
        if db.execute(sa.select(answers.c.id).where(answers.c.id == given.answer_id)).first() is None:
            raise NotFound("there is no such answer", where=f"answer_id {given.answer_id}", mend="Send the answer_id that came with the answer.")
        row = {"id": uuid.uuid4().hex, "idempotency_key": given.idempotency_key, "answer_id": given.answer_id, "body": body}
        stored = db.execute(insert(feedback).values(row).on_conflict_do_nothing(index_elements=["idempotency_key"]).returning(feedback.c.id)).first()
        if stored:
            return str(stored.id), True
        known = db.execute(sa.select(feedback.c.id, feedback.c.body).where(feedback.c.idempotency_key == given.idempotency_key)).one()
    if known.body != body:
        raise ContractError("this key was used for other feedback", where=f"idempotency_key {given.idempotency_key}", mend="Make a new key for new feedback.")
    return str(known.id), False


_READ = sa.select(
    feedback.c.number, feedback.c.id, feedback.c.at, feedback.c.body, feedback.c.segment, feedback.c.batch,
    answers.c.prompt, answers.c.input, answers.c.response, answers.c.model_version,
).join(answers)  # fmt: skip


def _record(row: Any) -> Feedback:
    return Feedback(**row.body, id=row.id, timestamp=row.at, prompt=row.prompt, input=row.input, response=row.response, model_version=row.model_version)


def seal_segments() -> list[str]:
    """Write feedback that no segment holds yet to the object store; returns the names written.

    First the rows are given their segment in one commit, then the file is written and marked: a death in between
    writes the same file again.
    """
    with transaction() as db:
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(SEAL_LOCK)))
        first, last = db.execute(sa.select(sa.func.min(feedback.c.number), sa.func.max(feedback.c.number)).where(feedback.c.segment.is_(None))).one()
        if first is not None:
            name = f"{first:012d}-{last:012d}.jsonl"
            db.execute(segments.insert().values(name=name))
            db.execute(feedback.update().where(feedback.c.segment.is_(None), feedback.c.number.between(first, last)).values(segment=name))
    written = []
    with transaction() as db:
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(SEAL_LOCK)))
        for (name,) in db.execute(sa.select(segments.c.name).where(segments.c.sealed.is_(None))).all():
            rows = db.execute(_READ.where(feedback.c.segment == name).order_by(feedback.c.number)).all()
            store.write_bytes(store.join(settings().store, SEGMENTS, name), "".join(_record(row).model_dump_json() + "\n" for row in rows).encode())
            db.execute(segments.update().where(segments.c.name == name).values(sealed=sa.func.now()))
            written.append(name)
    return written


def waiting() -> list[Feedback]:
    """Sealed feedback that no batch has claimed, oldest first."""
    with transaction() as db:
        rows = db.execute(
            _READ.join(segments, feedback.c.segment == segments.c.name)
            .where(feedback.c.batch.is_(None), segments.c.sealed.is_not(None))
            .order_by(feedback.c.number)
        )
        return [_record(row) for row in rows]


@dataclass(frozen=True)
class Batch:
    """The feedback that one curation took."""

    id: int
    claimed: datetime
    records: list[Feedback]
    segments: list[str]


def unfinished_batch() -> int | None:
    """A batch that was claimed by a curation which died before it finished."""
    with transaction() as db:
        return db.execute(sa.select(sa.func.min(batches.c.id)).where(~batches.c.finished)).scalar()


def claim() -> Batch:
    """Give every waiting record to a new batch in one commit, or take up the batch that was left unfinished."""
    with transaction() as db:
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(CLAIM_LOCK)))
        number = db.execute(sa.select(sa.func.min(batches.c.id)).where(~batches.c.finished)).scalar()
        if number is None:
            number = db.execute(batches.insert().returning(batches.c.id)).scalar_one()
            sealed = sa.select(segments.c.name).where(segments.c.sealed.is_not(None))
            db.execute(feedback.update().where(feedback.c.batch.is_(None), feedback.c.segment.in_(sealed)).values(batch=number))
        claimed = db.execute(sa.select(batches.c.at).where(batches.c.id == number)).scalar_one()
        rows = db.execute(_READ.where(feedback.c.batch == number).order_by(feedback.c.number)).all()
    return Batch(number, claimed.astimezone(UTC), [_record(row) for row in rows], sorted({row.segment for row in rows}))


def finish(batch: Batch) -> None:
    """The batch's examples are in the object store."""
    with transaction() as db:
        db.execute(batches.update().where(batches.c.id == batch.id).values(finished=True))


def trace(feedback_id: str) -> dict[str, Any]:
    """What became of one record: its answer, model version, segment and batch. Raises NotFound when it is unknown."""
    with transaction() as db:
        row = db.execute(_READ.where(sa.or_(feedback.c.id == feedback_id, feedback.c.idempotency_key == feedback_id))).first()
    if row is None:
        raise NotFound("there is no such feedback", where=feedback_id, mend="Pass the id that POST /v1/feedback returned.")
    return {**json.loads(_record(row).model_dump_json()), "segment": row.segment, "batch": row.batch}


@contextmanager
def registry_lock() -> Iterator[sa.Connection]:
    """One process at a time changes the model registry; a process that dies lets go. What it adds to the audit log commits at the end."""
    with transaction() as db:
        db.execute(sa.select(sa.func.pg_advisory_xact_lock(REGISTRY_LOCK)))
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
