"""The inference service: answers, takes feedback, follows the registry.

uvicorn serving.app:app --host 127.0.0.1 --port 18000       (its documentation page is /docs)
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, Counter, Histogram, generate_latest
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Receive, Scope, Send
from starlette.types import Message as Event

from flywheel import assessments, features, ledger, logs, prompt
from flywheel.errors import ContractError, FlywheelError, NotFound, TransientError, from_os_error
from flywheel.model import Decoding
from flywheel.records import Message
from flywheel.settings import settings
from serving import feedback
from serving.engine import Answer, Engine
from serving.reconcile import SECONDS, Reconciler
from serving.retrieval import answered
from serving.schemas import ChatIn, GenerateIn, GenerateOut, chat_completion

log = logging.getLogger("flywheel.serving")
SEAL_SECONDS = 5.0
LOG_SECONDS = 2.0  # between steps of 100 records: the door comes first
REQUESTS = Counter("flywheel_requests_total", "Requests, by path and status", ["path", "status"])
LATENCY = Histogram("flywheel_request_seconds", "Time to the whole answer", ["path"], buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60))
ANSWERS = Counter("flywheel_answers_total", "Answers given, by the version that gave them", ["version"])


async def every(seconds: float, step: Callable[[], Any]) -> None:
    """Call a blocking step in a thread, again and again; a step that fails is told once and tried again."""
    complaint = ""
    while True:
        try:
            await asyncio.to_thread(step)
            complaint = ""
        except Exception as error:  # it must live through whatever the database, the store or MLflow does
            known = from_os_error(error) if isinstance(error, OSError) else error
            sentence = known.sentence if isinstance(known, FlywheelError) else f"{type(error).__name__}: {error}"
            if sentence != complaint:
                complaint = sentence
                log.error("%s", complaint)
        await asyncio.sleep(seconds)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start the engine, the reconciler, and what feedback is owed: sealing it, and telling MLflow."""
    logs.setup("%(asctime)s %(message)s")
    app.state.engine = Engine()
    steps = (
        (SECONDS, Reconciler(app.state.engine).step),
        (SEAL_SECONDS, feedback.housekeeping),
        (LOG_SECONDS, assessments.log_pending),
        (LOG_SECONDS, features.Pusher().step),
    )
    tasks = [asyncio.create_task(every(seconds, step)) for seconds, step in steps]
    yield
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


app = FastAPI(title="Flywheel", description="A model that keeps improving from its users' feedback.", version="1", lifespan=lifespan)
app.include_router(feedback.router)


def failure(status: int, message: str, kind: str, param: str | None = None) -> JSONResponse:
    """An error in OpenAI's shape."""
    headers = {"retry-after": "1"} if status in (429, 503) else None
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": None}}, status, headers)


@app.exception_handler(FlywheelError)
async def _ours(_request: Request, error: FlywheelError) -> JSONResponse:
    if isinstance(error, ContractError):
        return failure(404 if isinstance(error, NotFound) else 400, error.sentence, "invalid_request_error")
    return failure(503, error.sentence, "server_error")


@app.exception_handler(RequestValidationError)
async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    return failure(400, f"{field or 'body'}: {first['msg']}. See /docs.", "invalid_request_error", field or None)


@app.exception_handler(HTTPException)
async def _http(_request: Request, error: HTTPException) -> JSONResponse:
    return failure(error.status_code, f"{error.detail}. See /docs.", "invalid_request_error")


class Measure:
    """Counts and times each request under its route, a crashed one too, and gives it the id that its log lines carry.

    Plain ASGI: Starlette's wrapper of functions costs as much as the door for feedback itself.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass everything on, and look at the status."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status = time.monotonic(), 500
        request_id = Headers(scope=scope).get("x-request-id", "")[:64] or uuid.uuid4().hex
        logs.bind(request=request_id, path=scope["path"])

        async def watch(message: Event) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            REQUESTS.labels(path, str(status)).inc()
            LATENCY.labels(path).observe(time.monotonic() - began)


app.add_middleware(Measure)


async def answer(body: GenerateIn | ChatIn, turns: list[Message], decoding: Decoding, request: Request) -> tuple[str, Answer, dict[str, Any]]:
    """Decode, and store the answer before it is given, so that feedback always finds it. With retrieval, its sources too."""
    given, shown, sources = await answered(app.state.engine, turns, decoding, body.retrieval, request)
    question, context = prompt.parts(shown[-1])
    answer_id = await asyncio.to_thread(ledger.add_answer, question, context, given.text, given.version, body.user)
    ANSWERS.labels(given.version).inc()
    return answer_id, given, sources


@app.post("/v1/generate", response_model_exclude_none=True)
async def generate(body: GenerateIn, request: Request) -> GenerateOut:
    """Answer an instruction."""
    turns = prompt.messages(body.instruction, body.input)
    answer_id, given, sources = await answer(body, turns, Decoding(body.max_new_tokens, body.temperature, body.top_p), request)
    return GenerateOut(
        answer_id=answer_id, response=given.text, model_version=given.version, prompt_tokens=given.prompt_tokens, answer_tokens=given.answer_tokens, **sources
    )


@app.post("/v1/chat/completions")
async def chat(body: ChatIn, request: Request) -> dict[str, Any]:
    """Answer a conversation, in OpenAI's form."""
    decoding = Decoding(body.max_completion_tokens or body.max_tokens or 128, body.temperature, body.top_p)
    answer_id, given, sources = await answer(body, body.messages, decoding, request)
    return chat_completion(answer_id, settings().model_name, given.text, given.prompt_tokens, given.answer_tokens, given.finished) | sources


@app.get("/v1/models")
async def models() -> dict[str, Any]:
    """The model that answers, in OpenAI's form."""
    served = app.state.engine.current
    found = [{"id": settings().model_name, "object": "model", "created": 0, "owned_by": "flywheel", "version": served.version}] if served else []
    return {"object": "list", "data": found}


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@app.get("/readyz")
async def readyz() -> dict[str, str]:
    """A model is loaded: 200 with its version, else 503."""
    served = app.state.engine.current
    if served is None:
        raise TransientError("no model is loaded yet", where="serving", mend="Wait; see `make logs S=serving`.")
    return {"status": "ready", "model_version": served.version}


@app.get("/metrics")
async def metrics() -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
