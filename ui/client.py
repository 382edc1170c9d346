"""The page's view of serving: its HTTP API, and nothing else."""

from __future__ import annotations

from typing import Any

import httpx

from flywheel.records import FeedbackIn, Message
from flywheel.settings import settings


class ServingError(Exception):
    """What went wrong, in words for the person at the page."""


def _call(method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    url = settings().serving_url
    try:
        reply = httpx.request(method, f"{url}{path}", json=body, timeout=120)
    except httpx.TimeoutException as error:
        raise ServingError("The model took too long. Try again, or ask for a shorter answer.") from error
    except httpx.HTTPError as error:
        raise ServingError(f"The model does not answer at {url}. Ask your operator to run `make status`.") from error
    if reply.is_error:
        try:
            message = reply.json()["error"]["message"]
        except (ValueError, KeyError, TypeError):
            message = f"The service answered with {reply.status_code}."
        raise ServingError(message)
    return dict(reply.json())


def version() -> str:
    """The version that answers."""
    return str(_call("GET", "/readyz")["model_version"])


def chat(messages: list[Message], max_tokens: int, temperature: float, user: str) -> tuple[str, str]:
    """(answer_id, text) for a conversation."""
    body = {"messages": [m.model_dump() for m in messages], "max_tokens": max_tokens, "temperature": temperature, "user": user}
    found = _call("POST", "/v1/chat/completions", body)
    return str(found["id"]), str(found["choices"][0]["message"]["content"])


def send(feedback: FeedbackIn) -> bool:
    """Store feedback; False when it was stored before."""
    return bool(_call("POST", "/v1/feedback", feedback.model_dump(mode="json"))["stored"])
