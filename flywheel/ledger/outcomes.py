"""How answers went while a rollout goes on: what its guards compare. One row an answer, of either arm; kept for a week."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import sqlalchemy as sa

from flywheel.ledger.schema import answers, feedback, outcomes, transaction

Arm = Literal["champion", "challenger"]


@dataclass(frozen=True)
class Outcome:
    """One answer: `seconds` to its end, its length in tokens, whether it failed or refused."""

    rollout: int
    arm: Arm
    version: str
    seconds: float
    tokens: int = 0
    failed: bool = False
    refused: bool = False


@dataclass(frozen=True)
class Sums:
    """A figure of one arm: how many, their mean and their variance."""

    n: int = 0
    mean: float = 0.0
    variance: float = 0.0


def add_outcomes(given: Sequence[Outcome]) -> None:
    """Store them, and let go what is a week old."""
    with transaction() as db:
        db.execute(outcomes.delete().where(outcomes.c.at < sa.func.now() - sa.text("interval '7 days'")))
        db.execute(outcomes.insert(), [asdict(one) for one in given])


def compare(rollout: int, since: float) -> dict[str, dict[Arm, Sums]]:
    """Each guarded figure of both arms since a moment (Unix seconds).

    `errors`, `refusals`, `thumbs_down` are shares; `latency` and `length` means of the natural logarithm, of seconds a token and tokens.
    """
    when = sa.func.to_timestamp(since)
    good = outcomes.c.failed.is_(False)
    measures: dict[str, tuple[Any, Any]] = {
        "errors": (sa.cast(outcomes.c.failed, sa.Integer), sa.true()),
        "refusals": (sa.cast(outcomes.c.refused, sa.Integer), good),
        "latency": (sa.func.ln(sa.func.greatest(outcomes.c.seconds / sa.func.greatest(outcomes.c.tokens, 1), 1e-6)), good),
        "length": (sa.func.ln(sa.func.greatest(outcomes.c.tokens, 1)), good),
    }
    found: dict[str, dict[Arm, Sums]] = {}
    with transaction() as db:
        for name, (value, which) in measures.items():
            chosen = _sums(value, outcomes.c.arm).where(outcomes.c.rollout == rollout, outcomes.c.at >= when, which).group_by(outcomes.c.arm)
            found[name] = _arms(db, chosen)
        down = sa.cast(feedback.c.body["thumb"].as_string() == "down", sa.Integer)
        arm = sa.case((answers.c.model_version == str(rollout), "challenger"), else_="champion")
        thumbs = _sums(down, arm).join_from(feedback, answers).where(feedback.c.at >= when, answers.c.at >= when, feedback.c.withheld.is_(None))
        found["thumbs_down"] = _arms(db, thumbs.where(feedback.c.body["thumb"].as_string().is_not(None)).group_by(sa.text("1")))
    return found


def _sums(value: Any, arm: Any) -> sa.Select[Any]:
    return sa.select(arm.label("arm"), sa.func.count(), sa.func.avg(value), sa.func.coalesce(sa.func.var_samp(value), 0))


def _arms(db: sa.Connection, chosen: sa.Select[Any]) -> dict[Arm, Sums]:
    rows = {arm: Sums(n, float(mean), float(variance)) for arm, n, mean, variance in db.execute(chosen).all()}
    return {"champion": rows.get("champion", Sums()), "challenger": rows.get("challenger", Sums())}
