"""Answers grounded in the indexed documents, for a request that asks for them with `retrieval`.

Who may see what is decided by the door that knows who asks: it puts the caller's tenants into `request.state.tenants`. Nothing that a
client writes into a request can name a tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from prometheus_client import Counter, Histogram
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from flywheel.records import Message
from rag import citing, grounding, search

SECONDS = Histogram(
    "flywheel_retrieval_seconds", "Time to find passages, the question's embedding included", buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5)
)
QUESTIONS = Counter("flywheel_retrievals_total", "Questions asked with retrieval, by whether the index supports an answer", ["supported"])


class Retrieval(BaseModel):
    """How a request asks for passages."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"k": 4, "filter": {"topic": "billing"}}]})

    k: int = Field(4, ge=1, le=20, description="At most this many passages")
    filter: dict[str, str] = Field({}, description="Only documents whose metadata has all of this")
    index: str = Field("default", max_length=64, description="The index's alias")


class Sourced(BaseModel):
    """What came of it: the conversation with its passages, or no conversation when nothing supports an answer."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    turns: list[Message]
    context: str = ""
    hits: list[Any] = []
    supported: bool = True


async def sourced(wanted: Retrieval, turns: Sequence[Message], request: Request) -> Sourced:
    """The last question with its passages. Raises NotFound without an index, TransientError when the database is away."""
    return await asyncio.to_thread(_sourced, wanted, list(turns), tuple(getattr(request.state, "tenants", ())))


def _sourced(wanted: Retrieval, turns: list[Message], tenants: Sequence[str]) -> Sourced:
    with SECONDS.time():
        hits = search.search(turns[-1].content, wanted.k, filter=wanted.filter, tenants=tenants, alias=wanted.index)
    supported = grounding.supported(hits, search.current(wanted.index).min_similarity)
    QUESTIONS.labels(str(supported).lower()).inc()
    if not supported:
        return Sourced(turns=turns, supported=False)
    context = grounding.context([(hit.title, hit.text) for hit in hits])
    return Sourced(turns=grounding.grounded(turns, hits), context=context, hits=hits)


def cited(text: str, found: Sourced) -> tuple[str, dict[str, Any]]:
    """The answer without markers that name no source; and `sources` and `citations` for the reply."""
    answer = citing.cited(text, found.hits)
    return answer.pop("answer"), answer
