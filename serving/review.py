"""The review queue over HTTP: what is in doubt, what people decide, and who decided what."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import Field

from flywheel import ledger
from flywheel.ledger import review
from flywheel.settings import settings
from serving.auth import speaker
from serving.schemas import Strict

router = APIRouter()


class DecisionIn(Strict):
    """A decision on one item; `edit` brings the corrected answer."""

    reviewer: str = Field(min_length=1, max_length=128)
    decision: review.Decision
    correction: str | None = Field(None, max_length=20_000)
    rating: int | None = Field(None, ge=1, le=5)
    comment: str | None = Field(None, max_length=5_000)


@router.get("/v1/review")
async def waiting(request: Request, reviewer: Annotated[str, Query(max_length=128)] = "", limit: Annotated[int, Query(ge=1, le=200)] = 20) -> dict[str, Any]:
    """What waits, the most important first, the newest decisions, and where Label Studio is, if anywhere. For a reviewer, without what they skipped and what they said themselves."""

    who = speaker(request, reviewer)

    def read() -> dict[str, Any]:
        with ledger.transaction() as db:
            found = {"data": review.waiting(db, limit, who or None), "decided": review.recent(db, limit)}
        return {"object": "list", **found, "label_studio": settings().label_studio_url}

    return await asyncio.to_thread(read)


@router.post("/v1/review/{item_id}")
async def decide(item_id: str, body: DecisionIn, request: Request) -> dict[str, str | None]:
    """Write a decision; 400 when somebody was quicker. The id is that of the feedback record it became, none for a skip."""

    who = speaker(request, body.reviewer)

    def write() -> str | None:
        with ledger.transaction() as db:
            return review.decide(db, item_id, who, body.decision, body.correction, body.rating, body.comment)

    return {"feedback_id": await asyncio.to_thread(write)}
