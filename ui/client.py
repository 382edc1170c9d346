"""The page's view of serving: its HTTP API, and nothing else.

Every call raises ServingError, whose text is for the person at the page: what went wrong, and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import httpx

from flywheel.records import FeedbackIn
from flywheel.settings import settings

PATIENCE = httpx.Timeout(30, connect=3, read=180)  # seconds; a full queue and a slow model are waited for
Json = dict[str, Any]


class ServingError(Exception):
    """What went wrong, in words for the person at the page."""


@dataclass(frozen=True)
class Piece:
    """What one event of a stream brings: the answer's id and version, more of its text, and now and then the rest."""

    answer_id: str
    version: str
    text: str = ""
    finish: str = ""
    log_probs: tuple[tuple[str, float], ...] = ()
    sources: tuple[Json, ...] = ()


@cache
def _http() -> httpx.Client:
    return httpx.Client(timeout=PATIENCE, limits=httpx.Limits(max_connections=200))  # one for all sessions: a new one costs 50 ms


def _headers(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"} if token else {}


def _in_words(error: httpx.HTTPError) -> ServingError:
    if isinstance(error, httpx.TimeoutException) and not isinstance(error, httpx.ConnectTimeout | httpx.PoolTimeout):
        return ServingError("The model took too long. Try again in a moment, or ask for a shorter answer.")
    return ServingError("The model service cannot be reached. Try again in a minute; if it stays so, tell your operator (`make status` shows why).")


def _refused(reply: httpx.Response) -> ServingError:
    if reply.status_code == 401:
        return ServingError("Your login is no longer valid. Log out and in again; what you wrote is kept.")
    try:
        return ServingError(str(reply.json()["error"]["message"]))
    except (ValueError, KeyError, TypeError):
        return ServingError(f"The service answered with {reply.status_code}. Try again; if it stays so, tell your operator.")


def call(method: str, path: str, token: str = "", body: Json | None = None, **params: Any) -> Json:
    """One request, and its answer as JSON."""
    try:
        reply = _http().request(method, settings().serving_url + path, json=body, params=params, headers=_headers(token))
    except httpx.HTTPError as error:
        raise _in_words(error) from error
    if reply.is_error:
        raise _refused(reply)
    return dict(reply.json())


def stream(body: Json, token: str = "") -> Iterator[Piece]:
    """A chat completion as it comes: OpenAI's server-sent events. Raises ServingError before it, or in its midst."""
    ended = False
    try:
        asked = {**body, "stream": True}
        with _http().stream("POST", settings().serving_url + "/v1/chat/completions", json=asked, headers=_headers(token)) as reply:
            if reply.is_error:
                reply.read()
                raise _refused(reply)
            for line in reply.iter_lines():
                if not line.startswith("data:"):
                    continue
                data = line.removeprefix("data:").strip()
                if ended := data == "[DONE]":
                    return
                yield _piece(json.loads(data))
    except httpx.TimeoutException as error:
        raise _in_words(error) from error
    except (httpx.RemoteProtocolError, httpx.ReadError) as error:
        raise ServingError("The connection broke in the middle of the answer. What had come is kept; try again.") from error
    except httpx.HTTPError as error:
        raise _in_words(error) from error
    if not ended:
        raise ServingError("The answer broke off. What had come is kept; try again.")


def _piece(event: Json) -> Piece:
    if "error" in event:
        raise ServingError(str(event["error"].get("message", "The answer broke off. Try again.")))
    choice = (event.get("choices") or [{}])[0]
    tokens = (choice.get("logprobs") or {}).get("content") or []
    return Piece(
        answer_id=str(event.get("id", "")),
        version=str(event.get("model_version", "")),
        text=(choice.get("delta") or {}).get("content") or "",
        finish=choice.get("finish_reason") or "",
        log_probs=tuple((t["token"], float(t["logprob"])) for t in tokens),
        sources=tuple(event.get("sources") or ()),
    )


def models(token: str = "") -> dict[str, str]:
    """What `model` may be, and the version behind it: first the one in use, then each that is loaded, e.g. `flywheel:3`."""
    return {str(m["id"]): str(m["version"]) for m in call("GET", "/v1/models", token)["data"]}


def send(feedback: FeedbackIn, token: str = "") -> str:
    """Store feedback; returns its id, the same one when it was stored before."""
    return str(call("POST", "/v1/feedback", token, feedback.model_dump(mode="json"))["id"])


def withdraw(feedback_id: str, user: str, token: str = "") -> None:
    """Take feedback back."""
    call("POST", f"/v1/feedback/{feedback_id}/withdraw", token, {"user": user})
