"""Engagement in figures: how many answers get feedback, how much of it is approval, how soon it is learned. Cheap: four indexed queries."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel, Field

from flywheel.ledger.schema import answers, feedback, lineage, transaction


class OfVersion(BaseModel):
    """What people made of one version's answers."""

    answers: int = 0
    answers_with_feedback: int = 0
    up: int = Field(0, description="Thumbs up, ratings of 4 and 5")
    down: int = Field(0, description="Thumbs down, ratings of 1 and 2")
    corrected: int = 0
    approval: float | None = Field(None, description="up / (up + down); None without either")


class Figures(BaseModel):
    """Over the last `days`. Withheld records do not count."""

    days: float
    answers: int
    feedback: int
    feedback_rate: float | None = Field(description="Share of answers with any feedback; None without answers")
    approval: float | None
    waiting: int = Field(description="Records that no batch has taken yet, of any age")
    learned: int = Field(description="Records that a version has learned")
    seconds_to_learn: float | None = Field(description="Median time from a record to the registration of the first version that learned it")
    versions: dict[str, OfVersion]


def figures(days: float = 30) -> Figures:
    """Count. Raises TransientError when the database is away."""
    since = datetime.now(UTC) - timedelta(days=days)
    rating = feedback.c.body["rating"].as_integer()
    thumb = feedback.c.body["thumb"].as_string()
    counted = sa.and_(feedback.c.withheld.is_(None), answers.c.at >= since)
    with transaction() as db:
        by_version = {
            row.model_version: OfVersion(answers=row.n)
            for row in db.execute(sa.select(answers.c.model_version, sa.func.count().label("n")).where(answers.c.at >= since).group_by(answers.c.model_version))
        }
        said = sa.select(
            answers.c.model_version,
            sa.func.count().label("n"),
            sa.func.count(feedback.c.answer_id.distinct()).label("rated"),
            sa.func.count().filter(sa.or_(thumb == "up", sa.and_(thumb.is_(None), rating >= 4))).label("up"),
            sa.func.count().filter(sa.or_(thumb == "down", sa.and_(thumb.is_(None), rating <= 2))).label("down"),
            sa.func.count().filter(feedback.c.body["correction"].as_string().is_not(None)).label("corrected"),
        )
        total = 0
        for row in db.execute(said.join_from(feedback, answers).where(counted).group_by(answers.c.model_version)):
            total += row.n
            of = by_version.setdefault(row.model_version, OfVersion())
            of.answers_with_feedback, of.up, of.down, of.corrected = row.rated, row.up, row.down, row.corrected
            of.approval = _share(row.up, row.up + row.down)
        waiting = db.execute(sa.select(sa.func.count()).where(feedback.c.batch.is_(None), feedback.c.withheld.is_(None))).scalar_one()
        learned, median = db.execute(_learning(since)).one()
    answered, up, down = (sum(getattr(v, name) for v in by_version.values()) for name in ("answers", "up", "down"))
    rated = sum(v.answers_with_feedback for v in by_version.values())
    return Figures(
        days=days, answers=answered, feedback=total, feedback_rate=_share(rated, answered), approval=_share(up, up + down), waiting=waiting,
        learned=learned, seconds_to_learn=median, versions=by_version,
    )  # fmt: skip


def _learning(since: datetime) -> sa.Select[Any]:
    """How many records some version has learned, and the median seconds until the first one did."""
    version = sa.select(sa.func.unnest(lineage.c.feedback).label("number"), lineage.c.at).where(lineage.c.kind == "version", lineage.c.at >= since).subquery()
    first = sa.select(version.c.number, sa.func.min(version.c.at).label("at")).group_by(version.c.number).subquery()
    seconds = sa.extract("epoch", first.c.at - feedback.c.at)
    median = sa.func.percentile_cont(0.5).within_group(seconds)
    return sa.select(sa.func.count(), median).select_from(first.join(feedback, feedback.c.number == first.c.number)).where(feedback.c.at >= since)


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None
