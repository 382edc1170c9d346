"""The usage policy and data notice: its text, and who accepted it. FLYWHEEL_POLICY is a Markdown file; its version follows from its text."""

from __future__ import annotations

import asyncio
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field

from flywheel import store
from flywheel.errors import ContractError, from_os_error
from flywheel.ledger import policy
from flywheel.settings import settings
from serving.auth import speaker
from serving.schemas import Strict

router = APIRouter()


class PolicyOut(BaseModel):
    """The text, its version, and when this person accepted it."""

    version: str
    text: str
    accepted: datetime | None


class AcceptIn(Strict):
    """Who accepts which version."""

    user: str = Field("anonymous", max_length=128)
    version: str = Field(max_length=64)


def present() -> tuple[str, str]:
    """Version and text, as the file is now; what stands in comments is not shown."""
    try:
        text = re.sub(r"<!--.*?-->", "", Path(settings().policy).read_text(encoding="utf-8"), flags=re.DOTALL).strip()
    except OSError as error:
        raise from_os_error(error) from error
    return store.sha256_text(text)[:12], text


@router.get("/v1/policy")
async def read(request: Request, user: Annotated[str, Query(max_length=128)] = "anonymous") -> PolicyOut:
    """The policy, and whether this person accepted it as it is now."""
    version, text = present()
    return PolicyOut(version=version, text=text, accepted=await asyncio.to_thread(policy.accepted, speaker(request, user), version))


@router.post("/v1/policy", status_code=201)
async def accept(body: AcceptIn, request: Request) -> PolicyOut:
    """Record that somebody accepts; 400 when the text has changed since they read it."""
    if body.version != present()[0]:
        raise ContractError("the policy has changed since it was read", where=f"version {body.version}", mend="Read it again, then accept it.")
    await asyncio.to_thread(policy.accept, speaker(request, body.user), body.version)
    return await read(request, body.user)
