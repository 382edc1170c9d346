"""How the flywheel does, over HTTP: champions, trends, the last turn, data versions, and where to look further."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any

from fastapi import APIRouter, Query
from pydantic import BaseModel

from flywheel import quality
from flywheel.errors import FlywheelError, from_os_error
from flywheel.settings import settings

SECONDS = 15

router = APIRouter()


class QualityOut(BaseModel):
    """Everything; a part whose source is away is empty, and `problems` says why."""

    metric: str = ""
    versions: list[quality.Point] = []
    trends: list[quality.Trend] = []
    turn: quality.Turn | None = None
    data: list[quality.Data] = []
    links: dict[str, str] = {}
    problems: list[str] = []


@router.get("/v1/quality")
async def read(days: Annotated[float, Query(gt=0, le=3650)] = 30) -> QualityOut:
    """The story of the last days; at most 15 s old."""
    return await asyncio.to_thread(_read, days, int(time.monotonic() // SECONDS))


@lru_cache(maxsize=8)
def _read(days: float, _moment: int) -> QualityOut:
    found = QualityOut(links={"Airflow": settings().airflow_url, "MLflow": settings().mlflow_url})

    def part(source: Callable[[], Any], missing: Any) -> Any:
        try:
            return source()
        except (FlywheelError, OSError) as error:
            found.problems.append(error.sentence if isinstance(error, FlywheelError) else from_os_error(error).sentence)
            return missing

    found.metric, found.versions = part(quality.champions, ("", []))
    found.trends = part(lambda: quality.trends(days), [])
    found.turn = part(quality.last_turn, None)
    found.data = part(quality.data, [])
    return found
