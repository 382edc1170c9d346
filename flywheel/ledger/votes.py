"""What curation asks the ledger beside the records of its batch: who said what before, what reviewers found, and how often a question came."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from flywheel.ledger.feedback import READ, record_of
from flywheel.ledger.schema import answers, decisions, feedback, review
from flywheel.records import Feedback


@dataclass(frozen=True)
class Earlier:
    """A record of an earlier batch, and whether it is a reviewer's decision."""

    record: Feedback
    reviewed: bool


def earlier(connection: sa.Connection, before: int, limit: int) -> list[Earlier]:
    """The latest records of earlier batches that may be used, oldest first."""
    is_review = sa.exists().where(decisions.c.feedback_id == feedback.c.id).label("reviewed")
    usable = (feedback.c.batch < before, feedback.c.withheld.is_(None), feedback.c.body["consent"].as_boolean())
    rows = connection.execute(READ.add_columns(is_review).where(*usable).order_by(feedback.c.number.desc()).limit(limit)).all()
    return [Earlier(record_of(row), row.reviewed) for row in reversed(rows)]


def verdicts(connection: sa.Connection, limit: int) -> list[tuple[str, str, bool]]:
    """Corrections that a reviewer approved or did not, the latest: id, who wrote it, approved."""
    chosen = sa.select(feedback.c.id, feedback.c.user, review.c.state).join(review, review.c.feedback_id == feedback.c.id)
    written = (review.c.state != "waiting", feedback.c.withheld.is_(None), feedback.c.body["correction"].as_string().is_not(None))
    return [(row.id, row.user, row.state == "approve") for row in connection.execute(chosen.where(*written).order_by(review.c.number.desc()).limit(limit))]


def records(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Feedback]:
    """Records by id; those that are withheld are not there."""
    rows = connection.execute(READ.where(feedback.c.id == _any(ids), feedback.c.withheld.is_(None)))
    return {row.id: record_of(row) for row in rows}


def responses(connection: sa.Connection, ids: Iterable[str]) -> dict[str, Any]:
    """`prompt`, `input` and `response` of answers, by id; those that are forgotten are not there."""
    chosen = sa.select(answers.c.id, answers.c.prompt, answers.c.input, answers.c.response)
    return {row.id: row for row in connection.execute(chosen.where(answers.c.id == _any(ids), answers.c.forgotten.is_(None)))}


def traffic(connection: sa.Connection, prompts: Iterable[str], days: float = 30) -> dict[tuple[str, str], int]:
    """How often each of these prompts was asked in the last days, by prompt and input."""
    since = datetime.now(UTC) - timedelta(days=days)
    asked = sa.select(answers.c.prompt, answers.c.input, sa.func.count().label("n")).where(answers.c.at >= since, answers.c.prompt == _any(prompts))
    return {(row.prompt, row.input): row.n for row in connection.execute(asked.group_by(answers.c.prompt, answers.c.input))}


def _any(values: Iterable[str]) -> sa.ColumnElement[Any]:
    return sa.any_(sa.literal(list(values), sa.ARRAY(sa.Text)))
