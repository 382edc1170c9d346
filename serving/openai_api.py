"""OpenAI's API: chat completions, completions, models; whole or as server-sent events. Its official client works unchanged."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from fastapi.responses import Response, StreamingResponse

from flywheel.errors import ContractError, FlywheelError, NotFound
from flywheel.settings import settings
from serving import retrieval
from serving.answering import Answer, Answerer, Question, pinned
from serving.auth import speaker
from serving.door import Gone, response_to
from serving.engines.base import Decoding, Piece, Token
from serving.retrieval import Cited, as_it_is
from serving.schemas import ChatIn, Common, CompletionIn
from serving.settings import serving

router = APIRouter()
T = TypeVar("T")
Form = Callable[[Piece | Answer, bool], dict[str, Any]]  # a choice in the form of its API: of a piece, and whether it is a stream's first; or of an answer


async def unless_gone(request: Request, work: Coroutine[Any, Any, T]) -> T:
    """The result, unless the client leaves before: then the work is cancelled and Gone raised."""
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Gone
        return task.result()
    finally:
        for each in (task, leaving):
            each.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def session_of(request: Request) -> str:
    """What a client without users may send to keep one version through a rollout."""
    return request.headers.get("x-session-id", "")[:128]


def may_cache(request: Request, wanted: bool) -> bool:
    """Whether neither the body nor `cache-control` refuses an earlier answer."""
    return wanted and not {"no-store", "no-cache"} & {word.strip() for word in request.headers.get("cache-control", "").split(",")}


def most_tokens(wanted: int | None, name: str) -> int:
    """The tokens an answer may have. Raises ContractError when more than the service's most are asked for."""
    if wanted and wanted > serving().max_answer_tokens:
        raise ContractError(f"the most is {serving().max_answer_tokens}", where=name, mend="Ask for fewer.")
    return wanted or min(128, serving().max_answer_tokens)


def question_of(request: Request, body: Common, turns: Any, text: str, decoding: Decoding) -> Question:
    """What both forms of request ask in the same way."""
    return Question(
        turns, decoding, text, user=speaker(request, body.user or "anonymous"), caller=request.state.caller, session=session_of(request), version=pinned(body.model),
        cache=may_cache(request, body.cache),
    )  # fmt: skip


def _decoding(body: Common, tokens: int, logprobs: bool, as_json: bool = False) -> Decoding:
    top_p = 1.0 if body.top_p is None else body.top_p
    return Decoding(tokens, body.temperature or 0.0, top_p, tuple(body.stop), body.seed, logprobs, as_json)


@router.post("/v1/chat/completions", response_model=None)
async def chat(body: ChatIn, request: Request) -> dict[str, Any] | Response:
    """Answer a conversation. `id`, and each choice's `answer_id`, are what feedback names."""
    turns = tuple(message.turn() for message in body.messages)
    tokens = most_tokens(body.max_completion_tokens or body.max_tokens, "max_tokens")
    as_json = body.response_format is not None and body.response_format.type == "json_object"
    decoding = _decoding(body, tokens, bool(body.logprobs), as_json)
    question = question_of(request, body, turns, turns[-1].content, decoding)
    question, cited = await retrieval.grounded(request.app.state.answerer, await request.app.state.features.asked(question), body.retrieval)

    def form(said: Piece | Answer, first: bool) -> dict[str, Any]:
        content = {"content": [_logprob(token) for token in said.tokens], "refusal": None} if body.logprobs else None
        if isinstance(said, Answer):
            return {"message": {"role": "assistant", "content": said.text, "refusal": None}, "logprobs": content}
        return {"delta": ({"role": "assistant"} if first else {}) | ({"content": said.text} if said.text or first else {}), "logprobs": content}

    return await _reply(request, body, [question], form, "chat.completion", "chat.completion.chunk", cited)


@router.post("/v1/completions", response_model=None)
async def completions(body: CompletionIn, request: Request) -> dict[str, Any] | Response:
    """Go on with a text as it stands."""
    decoding = _decoding(body, most_tokens(body.max_tokens, "max_tokens"), bool(body.logprobs))

    def form(said: Piece | Answer, _first: bool) -> dict[str, Any]:
        tokens = {"tokens": [t.text for t in said.tokens], "token_logprobs": [t.logprob for t in said.tokens], "top_logprobs": None, "text_offset": None}
        return {"text": said.text, "logprobs": tokens if body.logprobs else None}

    questions = [await request.app.state.features.asked(question_of(request, body, text, text, decoding)) for text in body.prompt]
    return await _reply(request, body, questions, form, "text_completion", "text_completion")


def _logprob(token: Token) -> dict[str, Any]:
    return {"token": token.text, "logprob": token.logprob, "bytes": list(token.text.encode()), "top_logprobs": []}


async def _reply(
    request: Request, body: Common, questions: list[Question], form: Form, whole: str, chunk: str, cited: Cited = as_it_is
) -> dict[str, Any] | Response:
    """Every question `n` times, as one reply or as a stream."""
    answerer: Answerer = request.app.state.answerer
    seed = body.seed
    asked = [
        replace(q, cache=q.cache and k == 0, decoding=replace(q.decoding, seed=None if seed is None else seed + k))
        for q in questions
        for k in range(body.n or 1)
    ]
    version = await answerer.version_for(asked[0])  # one version answers the whole request
    asked = [replace(q, version=version) for q in asked]
    if body.stream:
        return await _stream(request, body, answerer, asked, form, chunk, cited)
    answers = await unless_gone(request, _all([answerer.whole(q) for q in asked]))
    sources: dict[str, Any] = {}
    for a in reversed(answers):  # those of the first stay
        a.text, sources = cited(a.text)
    choices = [{"index": i, "finish_reason": a.finish, "answer_id": a.id, **form(a, True)} for i, a in enumerate(answers)]
    return {**_head(answers[0], body, whole), "choices": choices, "usage": _usage(answers), **sources}


async def _all(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """All results; the first failure cancels the others."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each) for each in work]
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _head(answer: Answer, body: Common, kind: str) -> dict[str, Any]:
    return {"id": answer.id, "object": kind, "created": int(time.time()), "model": body.model, "model_version": answer.version}


def _usage(answers: Sequence[Answer]) -> dict[str, int]:
    read, written = answers[0].prompt_tokens, sum(a.answer_tokens for a in answers)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


async def _stream(request: Request, body: Common, answerer: Answerer, asked: list[Question], form: Form, kind: str, cited: Cited) -> Response:
    """Server-sent events. What fails before the first piece is an error with its status; what fails later is an event."""
    answers = [Answer(q.version) for q in asked]
    pieces = _merged([answerer.stream(q, a) for q, a in zip(asked, answers, strict=True)])
    try:
        first = await unless_gone(request, _first(pieces))
    except BaseException:
        await pieces.aclose()
        raise
    head = _head(answers[0], body, kind)

    async def events() -> AsyncGenerator[bytes, None]:
        begun: set[int] = set()
        async with aclosing(pieces):
            index, piece = first
            try:
                while True:
                    choice = {"index": index, **form(piece, index not in begun), "finish_reason": piece.finish or None, "answer_id": answers[index].id}
                    begun.add(index)
                    yield _event({**head, "choices": [choice]})
                    index, piece = await anext(pieces)
            except StopAsyncIteration:
                pass
            except FlywheelError as error:
                yield b"data: " + bytes(response_to(error).body) + b"\n\n"
                return
        if sources := cited(answers[0].text)[1]:
            yield _event({**head, "choices": [], **sources})
        if body.stream_options and body.stream_options.include_usage:
            yield _event({**head, "choices": [], "usage": _usage(answers)})
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _first(pieces: AsyncGenerator[tuple[int, Piece], None]) -> tuple[int, Piece]:
    return await anext(pieces)


def _event(content: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


async def _merged(streams: list[AsyncGenerator[Piece, None]]) -> AsyncGenerator[tuple[int, Piece], None]:
    """Pieces of answers as they come, each with its answer's place. A client that reads slowly keeps none of the places where answers are decoded."""
    queue: asyncio.Queue[tuple[int, Piece | Exception | None]] = asyncio.Queue()

    async def pump(index: int, stream: AsyncGenerator[Piece, None]) -> None:
        try:
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    queue.put_nowait((index, piece))
            queue.put_nowait((index, None))
        except Exception as error:
            queue.put_nowait((index, error))

    tasks = [asyncio.create_task(pump(index, stream)) for index, stream in enumerate(streams)]
    left = len(tasks)
    try:
        while left:
            index, item = await queue.get()
            if isinstance(item, Exception):
                raise item
            if item is None:
                left -= 1
            else:
                yield index, item
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _model(name: str, version: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "flywheel", "version": version}


@router.get("/v1/models")
async def models(request: Request) -> dict[str, Any]:
    """The model that answers, and each loaded version by its number."""
    pool, name = request.app.state.answerer.pool, settings().model_name
    found = [_model(name, pool.champion)] if pool.champion else []
    return {"object": "list", "data": found + [_model(f"{name}:{version}", version) for version in pool.versions()]}


@router.get("/v1/models/{model}")
async def model(model: str, request: Request) -> dict[str, Any]:
    """One of them."""
    found = [m for m in (await models(request))["data"] if m["id"] == model]
    if not found:
        raise NotFound("there is no such model", where=f"model {model[:100]}", mend="GET /v1/models lists what is loaded.")
    return dict(found[0])
