"""What somebody said, for themselves: the records that they can withdraw."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request

from flywheel import ledger
from serving.auth import speaker

router = APIRouter()


@router.get("/v1/feedback")
async def mine(request: Request, user: Annotated[str, Query(max_length=128)] = "anonymous", limit: Annotated[int, Query(ge=1, le=500)] = 100) -> dict[str, Any]:
    """This person's records, the newest first, each with its answer and its verdict in a word."""
    records = await asyncio.to_thread(ledger.of_person, speaker(request, user), limit)
    return {"object": "list", "data": [{**record.model_dump(mode="json"), "verdict": record.verdict} for record in records]}
