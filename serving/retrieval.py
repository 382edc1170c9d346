"""Answers grounded in the indexed documents, for a request that asks for them with `retrieval`.

Who may see what is decided by the door that knows who asks: it puts the caller's tenants into `request.state.tenants`. Nothing that a
client writes into a request can name a tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from prometheus_client import Counter, Histogram
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from flywheel.model import Decoding
from flywheel.records import Message
from rag import citing, grounding, search
from serving.engine import Answer, Engine

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


async def answered(
    engine: Engine, turns: list[Message], decoding: Decoding, wanted: Retrieval | None, request: Request
) -> tuple[Answer, list[Message], dict[str, Any]]:
    """The answer, the conversation as the model saw it, and `sources` and `citations` for the reply (neither without `wanted`).

    Where no passage supports an answer the model is not asked. Raises NotFound without an index, TransientError when the database is away.
    """
    if wanted is None:
        return await engine.answer(turns, decoding), turns, {}
    hits, supported = await asyncio.to_thread(_find, wanted, turns[-1].content, tuple(getattr(request.state, "tenants", ())))
    if not supported:
        version = engine.current.version if engine.current else ""
        return Answer(grounding.UNKNOWN, version, 0, 0, True), turns, {"sources": [], "citations": []}
    shown = grounding.grounded(turns, hits)
    given = await engine.answer(shown, decoding)
    reply = citing.cited(given.text, hits)
    return replace(given, text=reply.pop("answer")), shown, reply


def _find(wanted: Retrieval, question: str, tenants: Sequence[str]) -> tuple[list[search.Hit], bool]:
    with SECONDS.time():
        hits = search.search(question, wanted.k, filter=wanted.filter, tenants=tenants, alias=wanted.index)
    supported = grounding.supported(hits, search.current(wanted.index).min_similarity)
    QUESTIONS.labels(str(supported).lower()).inc()
    return hits, supported
