"""Label Studio knocks here when somebody has annotated; what that means is then asked of Label Studio itself.

A knock is answered at once, since Label Studio waits one second for it, and worked off behind. One that is lost is made good by the next
pull of the stage `review`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Annotated

from fastapi import APIRouter, Header, HTTPException
from pydantic import BaseModel, Field

from flywheel.errors import FlywheelError
from flywheel.labelling import sync
from flywheel.labelling.project import HEADER, HOOK
from flywheel.settings import settings

log = logging.getLogger("flywheel.serving")
router = APIRouter()


class Named(BaseModel):
    """A project or a task."""

    id: int = Field(ge=0)


class KnockIn(BaseModel):
    """What is read of Label Studio's message: where to look."""

    project: Named
    task: Named | list[Named]


class Knocks:
    """Tasks to be looked at, each once however often it was knocked for, one after another."""

    def __init__(self) -> None:
        self.waiting: dict[tuple[int, int], None] = {}
        self.worker: asyncio.Task[None] | None = None

    def add(self, project: int, task: int) -> None:
        """Look at it soon."""
        self.waiting[project, task] = None
        if self.worker is None or self.worker.done():
            self.worker = asyncio.create_task(self._work())

    async def _work(self) -> None:
        while self.waiting:
            which = next(iter(self.waiting))
            del self.waiting[which]  # before we look: a knock that comes meanwhile counts
            try:
                taken = await asyncio.to_thread(sync.pull_task, *which)
                said = taken.said
            except FlywheelError as error:
                said = [error.sentence]
            except Exception:
                log.exception("task %d of project %d in Label Studio", which[1], which[0])
                continue
            for sentence in said:
                log.warning("%s", sentence)


knocks = Knocks()


@router.post(HOOK, status_code=202)
async def label_studio(body: KnockIn, secret: Annotated[str, Header(alias=HEADER)] = "") -> dict[str, str]:
    """Look at a task again: 202. 401 without the secret, 404 where no webhook is set up."""
    wanted = settings().label_studio_secret
    if not wanted:
        raise HTTPException(404, "no webhook is set up here: set FLYWHEEL_LABEL_STUDIO_SECRET")
    if not hmac.compare_digest(secret.encode(), wanted.encode()):
        raise HTTPException(401, f"{HEADER} is not this service's secret: push again (the DAG `review`), which tells Label Studio the right one")
    for task in body.task if isinstance(body.task, list) else [body.task]:
        knocks.add(body.project.id, task.id)
    return {"status": "looked at soon"}
