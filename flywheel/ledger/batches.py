"""Batches: the feedback that one curation took, and the only door through which feedback reaches a data set.

A claim joins records to a batch in one transaction, whatever Airflow kept or lost of its events. `<store>/feedback/batches/<id>.json`
is what `ingest` reads; what is withheld afterwards is taken out of it again, so that every later data set is without it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from flywheel import store
from flywheel.ledger.feedback import READ, older, record_of, supersede
from flywheel.ledger.review import decisions_on
from flywheel.ledger.schema import CLAIM_LOCK, batches, feedback, lock, segments, transaction
from flywheel.ledger.segments import CLAIMED
from flywheel.manifest import Artifact
from flywheel.records import Feedback
from flywheel.settings import settings

BATCHES, EXAMPLES, WAITING = "feedback/batches", "feedback/examples", "feedback/waiting.json"


@dataclass(frozen=True)
class Batch:
    """The feedback that one curation took."""

    id: int
    claimed: datetime
    records: list[Feedback]
    segments: list[str]

    @property
    def name(self) -> str:
        """As files and people call it."""
        return batch_name(self.id)


def batch_name(number: int) -> str:
    """A batch's number as files and people write it."""
    return f"{number:06d}"


def uri(number: int) -> str:
    """Where a batch is published."""
    return store.join(settings().store, BATCHES, f"{batch_name(number)}.json")


def waiting() -> list[Feedback]:
    """Sealed feedback that no batch has claimed, oldest first."""
    with transaction() as db:
        rows = db.execute(
            READ.join(segments, feedback.c.segment == segments.c.name)
            .where(feedback.c.batch.is_(None), feedback.c.sha256.is_(None), segments.c.sealed.is_not(None))
            .order_by(feedback.c.number)
        )
        return [record_of(row) for row in rows]


def unfinished_batch() -> int | None:
    """A batch that was claimed by a curation which died before it finished."""
    with transaction() as db:
        return _unfinished(db)


def _unfinished(db: sa.Connection) -> int | None:
    return db.execute(sa.select(sa.func.min(batches.c.id)).where(~batches.c.finished)).scalar()


def claim() -> Batch:
    """Give every waiting record to a new batch in one commit, or take up the batch that was left unfinished."""
    with transaction() as db:
        lock(db, CLAIM_LOCK)
        number = _unfinished(db)
        if number is None:
            number = db.execute(batches.insert().returning(batches.c.id)).scalar_one()
            sealed = sa.select(segments.c.name).where(segments.c.sealed.is_not(None))
            db.execute(feedback.update().where(feedback.c.batch.is_(None), feedback.c.segment.in_(sealed)).values(batch=number))
        supersede(db, older.c.batch == number)
        claimed = db.execute(sa.select(batches.c.at).where(batches.c.id == number)).scalar_one()
        rows = db.execute(READ.where(feedback.c.batch == number).order_by(feedback.c.number)).all()
    records = [record_of(row) for row in rows if row.sha256 is None]
    return Batch(number, claimed.astimezone(UTC), records, sorted({row.segment for row in rows}))


@contextmanager
def publishing(batch: Batch) -> Iterator[set[str]]:
    """Publish a batch inside this: gives the ids that were withheld by now, and marks the batch finished at the end.

    Who withdraws a record in the meantime waits, and then takes it out of what was published.
    """
    with transaction() as db:
        _lock_batch(db, batch.id)
        yield set(db.execute(sa.select(feedback.c.id).where(feedback.c.batch == batch.id, feedback.c.withheld.is_not(None))).scalars())
        db.execute(batches.update().where(batches.c.id == batch.id).values(finished=True))


def _lock_batch(db: sa.Connection, number: int) -> bool:
    """Hold a batch until the transaction ends; whether it is finished."""
    return bool(db.execute(sa.select(batches.c.finished).where(batches.c.id == number).with_for_update()).scalar_one())


def settle() -> list[int]:
    """Take withheld records out of the batches that hold them; returns the batches that were written again.

    Called by who withholds, and again and again by the service: a death in between is made good.
    """
    written, followed = [], 0
    with transaction() as db:
        unsettled = sa.select(feedback.c.batch).where(feedback.c.unsettled).distinct().order_by(feedback.c.batch)
        found = db.execute(unsettled).scalars().all()
    for number in found:
        with transaction() as db:
            finished = number is None or _lock_batch(db, number)  # one that is claimed is asked again what is withheld when it is published
            of_batch = feedback.c.batch.is_not_distinct_from(number)
            rows = db.execute(sa.select(feedback.c.id, feedback.c.sha256).where(of_batch, feedback.c.unsettled)).all()
            if number is not None and _without(number, {row.id for row in rows}, erase=any(row.sha256 for row in rows)):
                written.append(number)
            ids = [row.id for row in rows]
            resting = feedback.update().where(feedback.c.id.in_(decisions_on(ids)), feedback.c.withheld.is_(None))
            followed += db.execute(resting.values(withheld="what it decided on is withheld", unsettled=True)).rowcount
            if finished:
                db.execute(feedback.update().where(of_batch, feedback.c.id.in_(ids)).values(unsettled=False))
    return sorted({*written, *settle()}) if followed else written


def _without(number: int, ids: set[str], erase: bool) -> bool:
    """Publish a batch again without what rests on these records; `erase` deletes the files that held them. False: it held none."""
    try:
        published = json.loads(store.read_bytes(uri(number)))
    except FileNotFoundError:
        return False
    examples = Artifact.model_validate(published["examples"])
    lines = store.read_bytes(examples.location).splitlines(keepends=True)
    kept = [line for line in lines if not ids & set(json.loads(line)["feedback_ids"])]
    before = [*published.get("before", []), examples.uri]
    if len(kept) < len(lines):
        data = b"".join(kept)
        digest = hashlib.sha256(data).hexdigest()
        key = store.join(EXAMPLES, f"{batch_name(number)}-{digest[:12]}.jsonl")
        store.write_bytes(store.resolve(key), data)
        published["examples"] = Artifact(uri=key, sha256=digest, bytes=len(data), rows=len(kept)).model_dump()
    elif not erase or before == [examples.uri]:
        return False
    old = [key for key in before if key != published["examples"]["uri"]]
    if erase:  # the list stays until the files are gone
        store.write_bytes(uri(number), json.dumps({**published, "before": old}).encode())
        for key in old:
            store.remove(store.resolve(key))
        old = []
    store.write_bytes(uri(number), json.dumps({**published, "before": old}).encode())
    return True


def publish(batch: Batch, examples: Artifact) -> None:
    """Write what `ingest` reads, and mark the batch's segments claimed for the sensor."""
    told: dict[str, Any] = {"id": batch.name, "claimed": batch.claimed.isoformat(), "examples": examples.model_dump()}
    told |= {"feedback": [r.id for r in batch.records], "segments": batch.segments}
    store.write_bytes(uri(batch.id), json.dumps(told).encode())
    for segment in batch.segments:
        store.write_bytes(store.join(settings().store, CLAIMED, segment), b"")
