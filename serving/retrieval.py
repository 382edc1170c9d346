"""Answers grounded in the indexed documents, for a request that asks for them with `retrieval`.

Who may see what hangs on the tenants of the caller's key or token. Nothing that a client writes into a request can name a tenant.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from prometheus_client import Counter, Histogram
from pydantic import BaseModel, ConfigDict, Field

from flywheel import prompt
from flywheel.errors import ContractError
from flywheel.records import Message
from rag import citing, grounding, search
from serving.answering import Answerer, Question
from serving.engines.base import Model
from serving.features import told

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


Cited = Callable[[str], tuple[str, dict[str, Any]]]
"""From an answer's text to the text that is given, and to the reply's `sources` and `citations`."""


def as_it_is(text: str) -> tuple[str, dict[str, Any]]:
    """Without retrieval: no sources."""
    return text, {}


async def grounded(answerer: Answerer, question: Question, wanted: Retrieval | None) -> tuple[Question, Cited]:
    """A conversation as the model is shown it, and what an answer to it rests on. Where no passage supports an answer, the model is not asked.

    Passages for which the model that will answer has no room are left out, whole, the last ones first. Raises NotFound without an index,
    ContractError when there is room for none, TransientError when the database is away.
    """
    if wanted is None and not question.known:
        return question, as_it_is
    assert not isinstance(question.turns, str), "only a conversation can be grounded"
    turns = list(question.turns)
    if wanted is None:
        return _in(question, told(turns, question.known)), as_it_is
    hits, supported = await asyncio.to_thread(_find, wanted, turns[-1].content, sorted(question.caller.tenants))
    used: list[search.Hit] = []
    if supported:
        question = replace(question, version=await answerer.version_for(question))
        with answerer.pool.use(question.version) as model:
            used = await asyncio.to_thread(_fitting, model, question, grounding.kept(hits))
        turns = _shown(question, used)
    left_out = hits[len(used) :] if supported else []

    def cited(answer: str) -> tuple[str, dict[str, Any]]:
        reply = citing.cited(answer, used, left_out)
        return reply.pop("answer"), reply

    return replace(_in(question, turns), settled="" if supported else grounding.UNKNOWN), cited


def _in(question: Question, turns: Sequence[Message]) -> Question:
    """The question as these turns ask it, for the model and for the ledger."""
    text, context = prompt.parts(turns[-1])
    return replace(question, turns=tuple(turns), text=text, input=context)


def _shown(question: Question, hits: list[search.Hit]) -> list[Message]:
    return told(grounding.grounded(question.turns, hits), question.known)  # type: ignore[arg-type]


def _fitting(model: Model, question: Question, hits: list[search.Hit]) -> list[search.Hit]:
    """As many of the hits, from the first, as the model has room for beside the question and its answer."""
    while hits and model.room(_shown(question, hits), question.decoding.max_tokens) < 0:
        hits = hits[:-1]
    if not hits:
        mend = "Ask for fewer tokens, send less, or index shorter passages (index.characters)."
        raise ContractError("no passage fits into the model's context beside the question and its answer", where="retrieval", mend=mend)
    return hits


def _find(wanted: Retrieval, question: str, tenants: Sequence[str]) -> tuple[list[search.Hit], bool]:
    with SECONDS.time():
        hits = search.search(question, wanted.k, filter=wanted.filter, tenants=tenants, alias=wanted.index)
    supported = grounding.supported(hits, search.current(wanted.index).min_similarity)
    QUESTIONS.labels(str(supported).lower()).inc()
    return hits, supported
