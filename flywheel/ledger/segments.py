"""Segments: sealed JSONL files in the object store, the audit trail and what the sensor watches. Each record is in exactly one.

Fields of a line: those of `flywheel.records.Feedback`, with `timestamp`, `prompt`, `response`, `comment`, and `feedback`, the verdict in a word.
A forgotten record leaves a line with its id and the hash of what was said. Segments are written, never read, by the flywheel: the
ledger is the truth, and a file that was cut, lost or changed is written again from it. One that retention deleted (`archive`) is not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flywheel import store
from flywheel.ledger.feedback import READ, record_of
from flywheel.ledger.holds import held
from flywheel.ledger.schema import SEAL_LOCK, batches, feedback, lock, segments, transaction
from flywheel.settings import settings

SEGMENTS, CLAIMED = "feedback/segments", "feedback/claimed"
ROWS = 10_000  # at most, in one segment


def uri(name: str) -> str:
    """Where a segment lies."""
    return store.join(settings().store, SEGMENTS, name)


def seal_segments() -> list[str]:
    """Write feedback that no segment holds yet to the object store; returns the names written.

    First the rows are given their segment in one commit, then the file is written and marked: a death in between
    writes the same file again.
    """
    while _assign():
        pass
    written = []
    while name := _write():
        written.append(name)
    return written


def _write() -> str:
    """Write a segment that is not sealed; its name, or an empty string when all are."""
    with transaction() as db:
        lock(db, SEAL_LOCK)
        name = db.execute(sa.select(sa.func.min(segments.c.name)).where(segments.c.sealed.is_(None), segments.c.archived.is_(None))).scalar()
        if name is None:
            return ""
        rows = db.execute(READ.where(feedback.c.segment == name).order_by(feedback.c.number)).all()
        data = "".join(line(row) + "\n" for row in rows).encode()
        store.write_bytes(uri(name), data)
        db.execute(segments.update().where(segments.c.name == name).values(sealed=sa.func.now(), sha256=hashlib.sha256(data).hexdigest()))
    return str(name)


def _assign() -> bool:
    """Give rows without a segment a new one; False when there are none."""
    with transaction() as db:
        lock(db, SEAL_LOCK)
        free = sa.select(feedback.c.number).where(feedback.c.segment.is_(None)).order_by(feedback.c.number).limit(ROWS).subquery()
        first, last = db.execute(sa.select(sa.func.min(free.c.number), sa.func.max(free.c.number))).one()
        if first is None:
            return False
        name = f"{first:012d}-{last:012d}.jsonl"
        db.execute(segments.insert().values(name=name))
        db.execute(feedback.update().where(feedback.c.segment.is_(None), feedback.c.number.between(first, last)).values(segment=name))
    return True


def line(row: Any) -> str:
    """A record as a segment holds it."""
    if row.sha256 is not None:
        return json.dumps({"id": row.id, "timestamp": row.at.isoformat(), "forgotten": row.withheld, "sha256": row.sha256})
    record = record_of(row)
    return json.dumps({**record.model_dump(mode="json"), "feedback": record.verdict}, ensure_ascii=False)


def check_segments(names: Iterable[str]) -> list[str]:
    """Look at these files: one that is cut, lost or changed is written again, one that is not ours is named. A sentence for each."""
    said = []
    with transaction() as db:
        lock(db, SEAL_LOCK)
        known = {
            row.name: row.sha256
            for row in db.execute(sa.select(segments.c.name, segments.c.sha256).where(segments.c.sealed.is_not(None), segments.c.archived.is_(None)))
        }
        for name in names:
            if name not in known:
                said.append(f"{uri(name)} is not a segment that was sealed here (a copy, or renamed): it is not read, and may be deleted.")
            elif known[name] and _digest(name) != known[name]:
                said.append(f"{uri(name)} was cut, lost or changed: it is written again from the ledger.")
                db.execute(segments.update().where(segments.c.name == name).values(sealed=None))
    if any("written again" in sentence for sentence in said):
        seal_segments()
    return said


def _digest(name: str) -> str:
    try:
        return hashlib.sha256(store.read_bytes(uri(name))).hexdigest()
    except FileNotFoundError:
        return ""


def archive(before: datetime) -> list[str]:
    """Delete the files of segments that were sealed before a moment and whose records are all in finished batches; their names.

    The records stay in the ledger. What has a held record stays.
    """
    with transaction() as db:
        lock(db, SEAL_LOCK)
        busy = sa.or_(feedback.c.batch.is_(None), feedback.c.unsettled, ~batches.c.finished, held(db))
        open_ = sa.select(feedback.c.segment).outerjoin(batches, feedback.c.batch == batches.c.id).where(busy, feedback.c.segment.is_not(None))
        chosen = segments.c.sealed < before, segments.c.archived.is_(None), segments.c.name.not_in(open_)
        names = list(db.execute(segments.update().where(*chosen).values(archived=sa.func.now()).returning(segments.c.name)).scalars())
    for name in names:  # a death before the end leaves files that housekeeping calls orphans
        store.remove(uri(name))
        store.remove(store.join(settings().store, CLAIMED, name))
    return sorted(names)
