"""The door for feedback. Requests that come at the same moment are committed together; each is answered after its commit."""

from __future__ import annotations

import asyncio
import time
from functools import lru_cache
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from prometheus_client import Counter

from flywheel import ledger
from flywheel.errors import ContractError, FlywheelError
from flywheel.ledger import Figures, Stored
from flywheel.records import FeedbackIn
from serving.auth import speaker
from serving.group_commit import GroupCommit
from serving.schemas import FeedbackOut, WithdrawIn

FEEDBACK = Counter("flywheel_feedback_total", "Feedback stored, by thumb", ["thumb"])
CORRECTIONS = Counter("flywheel_corrections_total", "Feedback stored that says how the answer should have been")
for thumb in ("up", "down", "none"):
    FEEDBACK.labels(thumb)  # there from the start, at 0: a share of what was never given is no gap in a dashboard
FIGURES_SECONDS = 15

router = APIRouter()


def commit(given: list[FeedbackIn]) -> list[Stored | FlywheelError]:
    """What the ledger says of each."""
    return ledger.add_many(given)


door: GroupCommit[FeedbackIn, Stored] = GroupCommit(commit)


@router.post("/v1/feedback", status_code=201)
async def feedback(body: FeedbackIn, request: Request, response: Response) -> FeedbackOut:
    """Store feedback: 201 when it is committed, 200 when the same key was stored before."""
    if body.source == "review":
        raise ContractError("a review is written by deciding an item, not here", where="source", mend="Send the source it came from.")
    stored = await door.add(body.model_copy(update={"user": speaker(request, body.user)}))
    response.status_code = 201 if stored.new else 200
    if stored.new:
        FEEDBACK.labels(body.thumb or "none").inc()
        CORRECTIONS.inc(body.correction is not None)
    return FeedbackOut(id=stored.id, stored=stored.new, note=stored.note)


@router.post("/v1/feedback/{feedback_id}/withdraw")
async def withdraw(feedback_id: str, body: WithdrawIn, request: Request) -> FeedbackOut:
    """Take feedback back, by its id or key, for the person who gave it. When this answers, no later data set has it."""
    user = speaker(request, body.user)
    return FeedbackOut(id=await asyncio.to_thread(_withdraw, feedback_id, user), stored=False, note="It is withdrawn: nothing later is learned from it.")


@router.delete("/v1/feedback/{feedback_id}")
async def delete(feedback_id: str, request: Request, user: Annotated[str, Query(max_length=128)] = "anonymous") -> FeedbackOut:
    """The same as withdraw."""
    return await withdraw(feedback_id, WithdrawIn(user=user), request)


def _withdraw(feedback_id: str, user: str) -> str:
    found = ledger.withdraw(feedback_id, user)
    ledger.settle()
    return found


@router.get("/v1/stats")
async def stats(days: Annotated[float, Query(gt=0, le=3650)] = 30) -> Figures:
    """Answers, feedback, approval by version and the time to learn, over the last days; at most 15 s old."""
    return await asyncio.to_thread(_figures, days, int(time.monotonic() // FIGURES_SECONDS))


@lru_cache(maxsize=8)
def _figures(days: float, _moment: int) -> Figures:
    return ledger.figures(days)


def housekeeping() -> None:
    """What the ledger owes the object store: segments, and batches without what was withheld."""
    ledger.seal_segments()
    ledger.settle()
