"""Review: what people are asked to look at, and what they decide. Append-only: a decision is a feedback record of its own.

Curation offers what is in doubt; the review page and Label Studio show it and bring back decisions. An item is about one record (is this
correction, this thumb right?) or about an answer as such. Its texts are read from the ledger each time, so that what is withdrawn or
forgotten is no longer shown. Every function works in the caller's transaction: `with ledger.transaction() as db: review.waiting(db, 20)`.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal, get_args

import sqlalchemy as sa
from pydantic import ValidationError
from sqlalchemy.dialects.postgresql import insert

from flywheel.errors import ContractError, NotFound
from flywheel.ledger.feedback import add_feedback
from flywheel.ledger.schema import answers, decisions, feedback, review
from flywheel.records import FeedbackIn

Decision = Literal["approve", "edit", "reject", "skip"]


@dataclass(frozen=True, kw_only=True)
class ReviewItem:
    """One question to a person. To offer one, give `answer_id`, `feedback_id`, `reason` and `priority`; the ledger knows the rest."""

    id: str = ""
    feedback_id: str | None = None  # None: it is about the answer as such
    answer_id: str
    prompt: str = ""
    input: str = ""
    response: str = ""
    correction: str | None = None
    model_version: str = ""
    reason: str  # a sentence: why a person is asked
    priority: float = 0.0  # the highest is asked first
    state: Literal["waiting", "approve", "edit", "reject"] = "waiting"
    at: datetime | None = None


_READ = (
    sa.select(
        review, answers.c.prompt, answers.c.input, answers.c.response, answers.c.model_version, feedback.c.body["correction"].as_string().label("correction"),
        feedback.c.user, feedback.c.withheld, feedback.c.keep_until, sa.func.coalesce(feedback.c.body["consent"].as_boolean(), False).label("consent"),
        answers.c.forgotten,
    )
    .join(answers, answers.c.id == review.c.answer_id)
    .outerjoin(feedback, feedback.c.id == review.c.feedback_id)
)  # fmt: skip


def _item(row: Any) -> ReviewItem:
    return ReviewItem(**{name: getattr(row, name) for name in ReviewItem.__dataclass_fields__})


def offer(connection: sa.Connection, items: Iterable[ReviewItem]) -> int:
    """Ask for these; how many are new. The same record or answer is asked for once, however often it is offered."""
    rows = [{"id": uuid.uuid4().hex, "answer_id": i.answer_id, "feedback_id": i.feedback_id, "reason": i.reason, "priority": i.priority} for i in items]
    if not rows:
        return 0
    return len(connection.execute(insert(review).values(rows).on_conflict_do_nothing().returning(review.c.id)).all())


def waiting(connection: sa.Connection, limit: int, reviewer: str | None = None) -> list[ReviewItem]:
    """What nobody has decided, the most important first; for a reviewer, without what they skipped and what they said themselves."""
    chosen = _READ.where(review.c.state == "waiting", feedback.c.withheld.is_(None), answers.c.forgotten.is_(None))
    if reviewer is not None:
        skipped = sa.select(decisions.c.item).where(decisions.c.reviewer == reviewer)
        chosen = chosen.where(review.c.id.not_in(skipped), feedback.c.user.is_distinct_from(reviewer))
    return [_item(row) for row in connection.execute(chosen.order_by(review.c.priority.desc(), review.c.number).limit(limit))]


def decide(
    connection: sa.Connection, item_id: str, reviewer: str, decision: Decision, correction: str | None = None, rating: int | None = None,
    comment: str | None = None,
) -> str | None:  # fmt: skip
    """Write a decision into the ledger as feedback of source `review`; its id, or None for a skip, which leaves the item to others.

    approve: the correction that was shown is right, or, where there is none, the answer. reject: it is not. edit: `correction` is.
    The record carries the consent and the retention of the one that was looked at. Raises NotFound for an unknown item, ContractError when
    it was decided before, was withdrawn, is the reviewer's own, or the decision is not complete.
    """
    where = f"review item {item_id}"
    row = connection.execute(_READ.where(review.c.id == item_id).with_for_update(of=review)).first()
    if row is None:
        raise NotFound("there is no such review item", where=where, mend="Take the id from the list of what waits.")
    asked = sa.select(feedback.c.withheld).where(feedback.c.id == row.feedback_id)
    withheld = connection.execute(asked.with_for_update(read=True)).scalar()  # who withdraws it now waits for us, or we for them
    _refuse(where, row, withheld, reviewer, decision, correction)
    feedback_id = None
    if decision != "skip":
        feedback_id = add_feedback(_record(where, row, reviewer, decision, correction, rating, comment), within=connection)[0]
        connection.execute(review.update().where(review.c.id == item_id).values(state=decision))
    done = insert(decisions).values(item=item_id, reviewer=reviewer, decision=decision, feedback_id=feedback_id)
    again = {"decision": decision, "feedback_id": feedback_id, "at": sa.func.now()}  # who skipped it may come back to it
    connection.execute(done.on_conflict_do_update(index_elements=["item", "reviewer"], set_=again))
    return feedback_id


def _refuse(where: str, row: Any, withheld: str | None, reviewer: str, decision: str, correction: str | None) -> None:
    if row.state != "waiting":
        raise ContractError(f"it was decided before ({row.state})", where=where, mend="Take another item: a decision stays as it was made.")
    if withheld or row.forgotten or (row.keep_until and row.keep_until <= datetime.now(UTC)):
        raise ContractError("what it asks about was taken back, or kept long enough", where=where, mend="Take another item.")
    if not reviewer:
        raise ContractError("a decision says who made it", where=where, mend="Give the reviewer's name.")
    if row.user == reviewer:
        raise ContractError("nobody reviews what they said themselves", where=where, mend="Leave it to another reviewer, or withdraw the record.")
    if decision not in get_args(Decision):
        raise ContractError(f"`{decision}` is no decision", where=where, mend=f"Give one of {', '.join(get_args(Decision))}.")
    if (decision == "edit") != bool(correction and correction.strip()):
        raise ContractError("an edit, and only an edit, brings the corrected answer", where=where, mend="Send `edit` together with `correction`.")


def _record(where: str, row: Any, reviewer: str, decision: str, correction: str | None, rating: int | None, comment: str | None) -> FeedbackIn:
    """The decision as feedback. Of an approved correction the text is not copied: forgetting who wrote it has to find it in one place."""
    thumb = None if row.correction or decision == "edit" else {"approve": "up", "reject": "down"}[decision]
    try:
        return FeedbackIn(
            answer_id=row.answer_id, idempotency_key=f"review-{uuid.uuid4().hex}", thumb=thumb, rating=rating, correction=correction, comment=comment,
            tags=(decision,), user=reviewer, source="review", consent=row.consent, keep_until=row.keep_until,
        )  # fmt: skip
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise ContractError(f"`{field}`: {first['msg']}", where=where, mend="Mend that value.") from error


@dataclass(frozen=True)
class Decided:
    """What a record of source `review` says: the decision, and the record that was looked at, if it was one."""

    decision: Decision
    of: str | None


def decided(connection: sa.Connection, feedback_ids: Iterable[str]) -> dict[str, Decided]:
    """The decisions among these records, by the record's id. That a record calls itself a review does not make it one."""
    ids = sa.any_(sa.literal(list(feedback_ids), sa.ARRAY(sa.Text)))
    chosen = sa.select(decisions.c.feedback_id, decisions.c.decision, review.c.feedback_id.label("of")).join(review, review.c.id == decisions.c.item)
    return {row.feedback_id: Decided(row.decision, row.of) for row in connection.execute(chosen.where(decisions.c.feedback_id == ids))}


def decisions_on(which: Sequence[str] | sa.Select[Any]) -> sa.Select[Any]:
    """Ids of the records in which something was decided about these records, given by id: they stand and fall with them."""
    return (
        sa.select(decisions.c.feedback_id).join(review, review.c.id == decisions.c.item).where(review.c.feedback_id.in_(which), decisions.c.decision != "skip")
    )


def recent(connection: sa.Connection, limit: int) -> list[dict[str, Any]]:
    """Who decided what, the newest first; skips, too."""
    chosen = sa.select(decisions.c.at, decisions.c.reviewer, decisions.c.decision, decisions.c.feedback_id, answers.c.prompt)
    joined = chosen.join_from(decisions, review, review.c.id == decisions.c.item).join(answers, answers.c.id == review.c.answer_id)
    return [dict(row._mapping) for row in connection.execute(joined.order_by(decisions.c.at.desc()).limit(limit))]
