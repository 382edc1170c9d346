"""What annotators say, and how it becomes a decision: when as many as are asked for have spoken, most of them decide.

Every annotation is kept in the table `judgements`, without its texts; the decision is a record of the ledger, and how far people agree is computed
from all of them. The same annotation brought again changes nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from flywheel.errors import ContractError
from flywheel.ledger import review as reviews
from flywheel.ledger.review import Decision
from flywheel.ledger.schema import judgements as kept
from flywheel.ledger.schema import review, transaction


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What one annotator says of one item."""

    key: str  # the tool's own name of it
    annotator: str
    changed: str  # tells a changed one from the same
    decision: Decision | None
    correction: str | None = None
    rating: int | None = None
    better: str | None = None  # of two answers side by side
    comment: str | None = None
    problem: str = ""  # why it does not count


@dataclass
class Taken:
    """What came of a pull or an import."""

    new: int = 0  # annotations that were not known, or have changed
    decided: int = 0
    skipped: int = 0
    waiting: int = 0  # items that need another annotator
    said: list[str] = field(default_factory=list)  # a sentence for each that could not be taken


def take(tool: str, item: str, judgements: Sequence[Judgement], needed: int, taken: Taken) -> None:
    """Take up what is said of an item, in one transaction; `judgements` are all that the tool has of it."""
    where = f"{tool}, item {item}"
    with transaction() as db:
        state = db.execute(sa.select(review.c.state).where(review.c.id == item).with_for_update()).scalar()
        if state is None:
            return taken.said.append(f"{where}: there is no such review item. It was not made here; it is left alone.")
        fresh = _keep(db, tool, item, judgements)
        taken.new += len(fresh)
        for one in fresh:
            if one.problem:
                taken.said.append(f"{where}, annotation {one.key} by {one.annotator}: {one.problem}.")
        if state != "waiting":
            for one in fresh:
                taken.said.append(f"{where}, annotation {one.key} by {one.annotator}: it was decided before ({state}). It counts for agreement only.")
            return None
        try:
            for one in fresh:
                if one.decision == "skip":
                    reviews.decide(db, item, one.annotator, "skip")
                    taken.skipped += 1
            _decide(db, item, [one for one in judgements if one.decision not in (None, "skip") and not one.problem], needed, taken)
        except ContractError as error:  # taken back, or the annotator's own
            taken.said.append(error.sentence)
    return None


def _keep(db: sa.Connection, tool: str, item: str, judgements: Sequence[Judgement]) -> list[Judgement]:
    """Keep who said what, without what was deleted in the tool; gives what is new or has changed."""
    of_item = sa.and_(kept.c.tool == tool, kept.c.item == item)
    known = {row.key: row.changed for row in db.execute(sa.select(kept.c.key, kept.c.changed).where(of_item))}
    db.execute(kept.delete().where(of_item, kept.c.key.not_in([one.key for one in judgements])))
    fresh = [one for one in judgements if known.get(one.key) != one.changed]
    for one in fresh:
        row = {"annotator": one.annotator, "changed": one.changed, "decision": one.decision, "rating": one.rating, "better": one.better}
        row["problem"] = one.problem or None
        stated = insert(kept).values(tool=tool, key=one.key, item=item, **row)
        db.execute(stated.on_conflict_do_update(index_elements=["tool", "key"], set_=row))
    return fresh


def _decide(db: sa.Connection, item: str, judgements: Sequence[Judgement], needed: int, taken: Taken) -> None:
    """Decide, once enough people have spoken and more of them say one thing than any other."""
    people = {one.annotator: one for one in judgements}  # of each the last, as they are in the order in which they were made
    votes = Counter(one.decision for one in people.values()).most_common()
    if len(people) < needed or (len(votes) > 1 and votes[0][1] == votes[1][1]):
        taken.waiting += bool(people)
        return
    first = next(one for one in people.values() if one.decision == votes[0][0])
    assert first.decision is not None
    beside = f"side by side: {first.better}" if first.better else ""
    comment = "\n".join(part for part in (first.comment, beside) if part)
    reviews.decide(db, item, first.annotator, first.decision, first.correction, first.rating, comment or None)
    taken.decided += 1
