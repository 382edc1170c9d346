"""The inference service: answers, takes feedback, follows the registry.

python -m serving       (its documentation page is /docs; what it can do and how to set it up: docs/serving.md)
"""

from __future__ import annotations

import asyncio
import gc
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.openapi.utils import get_openapi
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.exceptions import HTTPException

from flywheel import logs, prompt
from flywheel.errors import FlywheelError, TransientError
from serving import auth, embeddings, feedback, mine, openai_api, outcomes, policy, quality, retrieval, review, tracing, webhook, worker
from serving.answering import Answerer, Question
from serving.door import Door, failure, response_to
from serving.engines import create
from serving.engines.base import Decoding
from serving.features import Features
from serving.limits import Limits
from serving.pool import Pool
from serving.reconcile import SECONDS, Reconciler
from serving.schemas import Failure, GenerateIn, GenerateOut
from serving.settings import serving

log = logging.getLogger("flywheel.serving")
SWITCH_SECONDS = 0.001  # how long one thread may keep the interpreter from another: Python's 0.005 is long for a loop that wants it for moments


async def settle(pool: Pool) -> None:
    """When a model is there: what the start left behind is never looked through for garbage again. A look at all of it stops every answer for 0.1 s."""
    while pool.champion is None:
        await asyncio.sleep(0.2)
    gc.collect()
    gc.freeze()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Start the engine, the reconciler, and what feedback is owed, where no worker does it."""
    logs.setup("%(asctime)s %(message)s")
    sys.setswitchinterval(SWITCH_SECONDS)
    tracing.setup()
    auth.keys()  # a file that cannot be read stops the service here
    pool = Pool()
    app.state.limits, app.state.draining = Limits(), False
    app.state.answerer, app.state.features = Answerer(pool, app.state.limits), Features(pool)
    reconciler = Reconciler(pool, create())
    steps = ((SECONDS, reconciler.step), (outcomes.SECONDS, outcomes.flush), *(worker.steps() if serving().feedback_steps else ()))
    tasks = [asyncio.create_task(settle(pool)), *(asyncio.create_task(worker.every(seconds, step)) for seconds, step in steps)]
    yield
    gc.unfreeze()
    for task in tasks:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    with suppress(FlywheelError):
        outcomes.flush()
    tracing.stop()


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": Failure, "description": text}
    for code, text in {
        400: "What is wrong, and how to mend it", 401: "No valid credential", 403: "It lacks the scope", 404: "No such thing", 408: "The request came too slowly",
        413: "Too large", 429: "Too many requests: `retry-after` says when", 503: "Not now: `retry-after` says when",
    }.items()
}  # fmt: skip
app = FastAPI(title="Flywheel", description="A model that keeps improving from its users' feedback.", version="1", lifespan=lifespan, responses=ERRORS)
for part in (embeddings, feedback, mine, openai_api, policy, quality, review, webhook):
    app.include_router(part.router)


def documented() -> dict[str, Any]:
    """The OpenAPI document, with the scope that each path wants, as OAuth2 and as bearer keys."""
    if app.openapi_schema:
        return app.openapi_schema
    found = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
    issuer = serving().oidc_issuer.rstrip("/")
    schemes: dict[str, Any] = {"key": {"type": "http", "scheme": "bearer", "description": "An API key, or a JWT of the issuer"}}
    if issuer:
        schemes["oidc"] = {"type": "openIdConnect", "openIdConnectUrl": f"{issuer}/.well-known/openid-configuration"}
    found.setdefault("components", {})["securitySchemes"] = schemes
    for path, operations in found["paths"].items():
        scope = auth.scope_of(path)
        for operation in operations.values():
            operation["responses"].pop("422", None)  # a 400, here
            if scope != "open":
                operation["security"] = [{"key": []}, *([{"oidc": [scope]}] if issuer else [])]
                operation["description"] = f"{operation.get('description', '')}\n\nScope: `{scope}`"
    app.openapi_schema = found
    return found


app.openapi = documented  # type: ignore[method-assign]


@app.exception_handler(FlywheelError)
async def _ours(_request: Request, error: FlywheelError) -> JSONResponse:
    return response_to(error)


@app.exception_handler(RequestValidationError)
async def _invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"][1:])
    return failure(400, f"{field or 'body'}: {first['msg']}. See /docs.", "invalid_request_error", field or None)


@app.exception_handler(HTTPException)
async def _http(_request: Request, error: HTTPException) -> JSONResponse:
    reply = failure(error.status_code, f"{error.detail}. See /docs.", "invalid_request_error")
    reply.headers.update(error.headers or {})
    return reply


app.add_middleware(Door)
if serving().cors_origins:
    app.add_middleware(CORSMiddleware, allow_origins=serving().cors_origins, allow_methods=["*"], allow_headers=["*"])


@app.post("/v1/generate", response_model_exclude_none=True)
async def generate(body: GenerateIn, request: Request) -> GenerateOut:
    """Answer an instruction."""
    tokens = openai_api.most_tokens(body.max_new_tokens, "max_new_tokens")
    decoding = Decoding(tokens, body.temperature, body.top_p, tuple(body.stop), body.seed)
    question = Question(
        tuple(prompt.messages(body.instruction, body.input)), decoding, body.instruction, body.input, auth.speaker(request, body.user), request.state.caller,
        openai_api.session_of(request), cache=openai_api.may_cache(request, body.cache),
    )  # fmt: skip
    question, cited = await retrieval.grounded(app.state.answerer, await app.state.features.asked(question), body.retrieval)
    given = await openai_api.unless_gone(request, app.state.answerer.whole(question))
    text, sources = cited(given.text)
    return GenerateOut(
        answer_id=given.id, response=text, model_version=given.version, prompt_tokens=given.prompt_tokens, answer_tokens=given.answer_tokens, **sources
    )


@app.get("/healthz")
async def healthz() -> dict[str, str]:
    """The process lives."""
    return {"status": "ok"}


@app.get("/readyz")
async def readyz() -> dict[str, Any]:
    """A model is loaded and requests are taken: 200 with its version and all that are loaded, else 503."""
    if app.state.draining:
        raise TransientError("this server is leaving", where="serving", mend="Ask another one.")
    version = app.state.answerer.pool.champion
    if version is None:
        raise TransientError("no model is loaded yet", where="serving", mend="Wait; see `make logs S=serving`.")
    return {"status": "ready", "model_version": version, "versions": app.state.answerer.pool.versions()}


@app.get("/metrics", response_class=Response)
async def metrics() -> Response:
    """Prometheus metrics."""
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
