"""Whether a turn can pay: enough that is new, not too like what is known, and a week's budget that is not spent."""

from __future__ import annotations

from collections.abc import Sequence

from flywheel.config import Train
from flywheel.manifest import Cost
from tasks import likeness

Tokens = Sequence[int]


def known(new: Sequence[Tokens], learned: Sequence[Tokens], similarity: float) -> int:
    """How many of the new token sequences are that much (Jaccard, 3-grams) like one that was learned before."""
    return len(likeness.alike(dict(enumerate(map(likeness.grams, new))), map(likeness.grams, learned), similarity))


def too_little(new: Sequence[Tokens], learned: Sequence[Tokens], conf: Train) -> str:
    """Why the new examples cannot pay for a turn; empty when they can."""
    if len(new) < conf.min_new_examples:
        return f"{len(new)} new examples, fewer than train.min_new_examples ({conf.min_new_examples}): waiting for more"
    alike = known(new, learned, conf.known_from)
    if len(new) - alike < conf.min_new_examples:
        return f"{alike} of {len(new)} new examples are nearly what was learned before; {len(new) - alike} are left, {conf.min_new_examples} are needed"
    return ""


def budget_spent(spent: Cost, conf: Train) -> str:
    """Which of the week's budgets is spent; empty when none is."""
    until = "the next week begins on Monday, UTC"
    if conf.weekly_gpu_hours is not None and spent.gpu_seconds >= conf.weekly_gpu_hours * 3600:
        return f"this week's {conf.weekly_gpu_hours:g} GPU-hours are spent ({spent.gpu_seconds / 3600:.2f}): {until}"
    if conf.weekly_money is not None and spent.money >= conf.weekly_money:
        return f"this week's {conf.weekly_money:g} {spent.currency} are spent ({spent.money:.4f}): {until}"
    return ""
