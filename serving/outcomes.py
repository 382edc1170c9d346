"""What a rollout's guards will compare: each answer's outcome, gathered here and written to the ledger every second, only while a rollout goes on."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any, NamedTuple

from flywheel import ledger
from flywheel.ledger import Outcome
from flywheel.ledger.outcomes import Arm
from flywheel.refusals import refuses
from flywheel.registry import Desired

log = logging.getLogger("flywheel.serving")
SECONDS = 1.0
_gathered: deque[Outcome] = deque(maxlen=10_000)  # with the database away the oldest go: they are a measurement, not a record
_tasks: set[asyncio.Task[Any]] = set()


class Side(NamedTuple):
    """Where an answer counts: the rollout, by its challenger's number, and for whom."""

    rollout: int
    arm: Arm


def side_of(desired: Desired, version: str) -> Side | None:
    """On which side of the rollout that goes on a version's answer counts; None without a rollout."""
    if not desired.live or desired.challenger is None:
        return None
    return Side(desired.challenger, "challenger" if version == desired.challenger_name else "champion")


def add(side: Side | None, version: str, seconds: float, text: str = "", tokens: int = 0, failed: bool = False) -> None:
    """Note one answer; `side` is what `side_of` said when it began."""
    if side:
        _gathered.append(Outcome(side.rollout, side.arm, version, seconds, tokens, failed, refuses(text)))


def keep(task: asyncio.Task[Any]) -> None:
    """Hold a task that nobody waits for until it is done."""
    _tasks.add(task)
    task.add_done_callback(_tasks.discard)


def flush() -> None:
    """Write what was gathered. Raises TransientError when the database is away: then it is kept for the next time."""
    given = [_gathered.popleft() for _ in range(len(_gathered))]
    try:
        if given:
            ledger.add_outcomes(given)
    except Exception:
        _gathered.extendleft(reversed(given))
        raise
