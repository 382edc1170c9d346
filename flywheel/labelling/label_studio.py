"""A small client of Label Studio's REST API."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx

from flywheel.errors import ContractError, NotFound, TransientError
from flywheel.settings import settings

TIMEOUT_SECONDS = 30.0
PAGE = 100


class LabelStudio:
    """Calls raise TransientError when it is away or slow, NotFound for what is not there, ContractError when it refuses."""

    def __init__(self) -> None:
        self.url = settings().label_studio_url.rstrip("/")
        if not self.url or not settings().label_studio_token:
            mend = "Set FLYWHEEL_LABEL_STUDIO_URL and FLYWHEEL_LABEL_STUDIO_TOKEN; on a laptop `make review` does."
            raise ContractError("no Label Studio is set up", where="review", mend=mend)
        headers = {"Authorization": f"Token {settings().label_studio_token}"}
        self.http = httpx.Client(base_url=self.url, timeout=TIMEOUT_SECONDS, headers=headers)

    def call(self, method: str, path: str, **options: Any) -> Any:
        """One request; its JSON, or None where there is none."""
        later = "Nothing is lost: it is pushed and pulled when it is well."
        try:
            reply = self.http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise TransientError(f"Label Studio does not answer ({type(error).__name__})", where=self.url, mend=later) from error
        if reply.status_code >= 500 or reply.status_code == 429:
            raise TransientError(f"Label Studio answers {method} {path} with {reply.status_code}", where=self.url, mend=later)
        if reply.status_code == 401:
            mend = "Set FLYWHEEL_LABEL_STUDIO_TOKEN to a valid access token of a user who may manage projects."
            raise ContractError("Label Studio does not accept this token", where=self.url, mend=mend)
        if reply.status_code == 404:
            raise NotFound(f"Label Studio has no {path}", where=self.url, mend="It may have been deleted there.")
        if reply.is_error:
            raise ContractError(f"Label Studio refuses {method} {path} ({reply.status_code}: {reply.text[:300]})", where=self.url, mend="Mend what it names.")
        try:
            return reply.json() if reply.content else None
        except ValueError as error:
            raise ContractError("what answers is not Label Studio", where=self.url, mend="Look at FLYWHEEL_LABEL_STUDIO_URL.") from error

    def pages(self, path: str, key: str, **params: Any) -> Iterator[dict[str, Any]]:
        """What a list holds, page by page."""
        seen = 0
        for number in itertools.count(1):
            page = self.call("GET", path, params={**params, "page": number, "page_size": PAGE})
            yield from page[key]
            seen += len(page[key])
            if len(page[key]) < PAGE or seen >= page.get("total", page.get("count", 0)):  # a page beyond the last is a 404
                return

    def tasks(self, project: int, column: str, kind: str, after: str | int) -> Iterator[dict[str, Any]]:
        """A project's tasks, with their annotations, whose column is greater, in its order."""
        chosen = {"filter": f"filter:tasks:{column}", "operator": "greater", "type": kind, "value": after}
        query = {"filters": {"conjunction": "and", "items": [chosen]}, "ordering": [f"tasks:{column}"]}
        return self.pages("/api/tasks", "tasks", project=project, fields="all", query=json.dumps(query))

    def people(self) -> dict[int, str]:
        """Who is who: a user's id and e-mail address."""
        return {one["id"]: one["email"] or one["username"] for one in self.call("GET", "/api/users")}
