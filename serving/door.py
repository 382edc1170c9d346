"""What every request passes before its route: id, credential, limits of rate, size and time; and what every reply carries.

Plain ASGI: Starlette's wrapper of functions costs as much as the door for feedback itself. Each is counted and timed under its route, a crashed
one too.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time

from fastapi.responses import JSONResponse
from prometheus_client import Counter, Histogram
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from flywheel import logs
from flywheel.errors import ContractError, FlywheelError, NotFound
from serving import auth, tracing
from serving.admission import Busy
from serving.settings import serving

log = logging.getLogger("flywheel.serving")
REQUESTS = Counter("flywheel_requests_total", "Requests, by path and status", ["path", "status"])
LATENCY = Histogram("flywheel_request_seconds", "Time to the whole answer", ["path"], buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60))
KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "content-security-policy": "frame-ancestors 'none'",
    "strict-transport-security": "max-age=31536000",  # browsers heed it over TLS only
}


class TooLarge(ContractError):
    """A body over the limit: 413."""


class TooSlow(ContractError):
    """A body that does not come: 408."""


class Gone(Exception):
    """The client left in the middle of its request: there is nobody to answer."""


def failure(status: int, message: str, kind: str, param: str | None = None, retry_after: int = 1) -> JSONResponse:
    """An error in OpenAI's shape."""
    headers = {"retry-after": str(retry_after)} if status in (429, 503) else {"www-authenticate": "Bearer"} if status == 401 else None
    return JSONResponse({"error": {"message": message, "type": kind, "param": param, "code": None}}, status, headers)


def response_to(error: FlywheelError) -> JSONResponse:
    """What each of our errors is over HTTP."""
    if isinstance(error, Busy):
        return failure(error.status, error.sentence, KINDS.get(error.status, "server_error"), retry_after=error.retry_after)
    if isinstance(error, auth.Denied):
        return failure(error.status, error.sentence, KINDS[error.status])
    if isinstance(error, ContractError):
        status = next((code for kind, code in ((NotFound, 404), (TooLarge, 413), (TooSlow, 408)) if isinstance(error, kind)), 400)
        return failure(status, error.sentence, "invalid_request_error")
    return failure(503, error.sentence, "server_error")


class Door:
    """The outermost part of the application."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or say why not."""
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        began, status, headers = time.monotonic(), 500, Headers(scope=scope)
        request_id = "".join(c for c in headers.get("x-request-id", "")[:64] if c.isprintable()) or f"{random.getrandbits(128):032x}"
        logs.bind(request=request_id, path=scope["path"])

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                out = MutableHeaders(scope=message)
                out["x-request-id"] = request_id
                if getattr(scope["app"].state, "draining", False):
                    out["connection"] = "close"  # so that who keeps connections asks somebody else next
                for name, value in HEADERS.items():
                    out.setdefault(name, value)
            await send(message)

        try:
            with tracing.request(scope["method"], scope["path"], headers, request_id) as span:
                try:
                    await self._let_in(scope, receive, watch, headers)
                except FlywheelError as error:
                    await response_to(error)(scope, receive, watch)
                except Gone:
                    status = 499
                if span:
                    span.set_attribute("http.response.status_code", status)
        finally:
            path = getattr(scope.get("route"), "path", "unknown")
            REQUESTS.labels(path, str(status)).inc()
            LATENCY.labels(path).observe(time.monotonic() - began)
        return None

    async def _let_in(self, scope: Scope, receive: Receive, send: Send, headers: Headers) -> None:
        caller = await auth.authorise(scope["path"], headers.get("authorization", ""))
        if scope["path"] not in auth.OPEN:
            caller = await scope["app"].state.features.tiered(caller)
            await scope["app"].state.limits.admit(caller)
        scope.setdefault("state", {})["caller"] = caller
        body = await _body(headers, receive)
        await self.app(scope, _again(body, receive), send)


async def _body(headers: Headers, receive: Receive) -> bytes:
    """The whole body. Raises TooLarge before it is read to its end, TooSlow when it does not come in time, Gone."""
    most = serving().max_body_bytes
    large = TooLarge(f"the request is larger than {most} bytes", where="body", mend="Send less.")
    if int(headers.get("content-length") or 0) > most:
        raise large
    parts, size = [], 0
    try:
        async with asyncio.timeout(serving().body_seconds):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                parts.append(message.get("body", b""))
                size += len(parts[-1])
                if size > most:
                    raise large
                if not message.get("more_body"):
                    return b"".join(parts)
    except TimeoutError:
        raise TooSlow(f"the request did not come within {serving().body_seconds:g} s", where="body", mend="Send it again.") from None


def _again(body: bytes, receive: Receive) -> Receive:
    """The body as one message; after it, what the client does: it leaves."""
    given = False

    async def once() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return once
