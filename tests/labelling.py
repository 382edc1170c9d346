"""A real Label Studio for tests, and people who annotate in it through its API."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from flywheel.laptop import processes, services
from flywheel.ledger import review, transaction
from flywheel.ledger.review import ReviewItem
from flywheel.settings import Settings


@contextmanager
def label_studio(url: str, token: str) -> Iterator[str]:
    """The server as the laptop stack runs it, in a folder of its own; its first start takes a minute or two."""
    with tempfile.TemporaryDirectory(prefix="flywheel-label-") as folder:
        conf = Settings(home=Path(folder), label_studio_url=url, label_studio_token=token)
        service = services.label_studio(conf)
        log = Path(folder) / "log"
        environment = {**os.environ, **service.environment, processes.HOME: folder, processes.MARK: service.name}
        with log.open("wb") as file:
            started = subprocess.Popen(service.command, env=environment, cwd=folder, stdout=file, stderr=file, start_new_session=True)
        try:
            until = time.monotonic() + 600
            while not service.healthy():
                assert started.poll() is None and time.monotonic() < until, log.read_text()[-3000:]
                time.sleep(0.5)
            yield url
        finally:
            started.kill()
            processes.end(folder)
            started.wait()


class People:
    """Annotators. Others than the first are made through the organization's invitation, as people join."""

    def __init__(self, url: str, token: str) -> None:
        self.url, self.token = url, token
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Token {token}"}, timeout=60)

    def api(self, method: str, path: str, **options: object) -> httpx.Response:
        reply = self.http.request(method, path, **options)  # type: ignore[arg-type]
        assert reply.is_success, (method, path, reply.status_code, reply.text[:500])
        return reply

    def tasks(self, project: int) -> dict[str, dict]:
        """By item."""
        found = self.api("GET", "/api/tasks", params={"project": project, "fields": "all", "page_size": 500}).json()["tasks"]
        return {task["data"]["item"]: task for task in found}

    def annotate(self, task: int, verdict: str = "", edited: str = "", better: str = "", rating: int = 0, by: int | None = None, **more: object) -> int:
        """As somebody does who presses Submit; the annotation's id."""

        def part(name: str, kind: str, key: str, value: object) -> dict:
            return {"from_name": name, "to_name": "response", "type": kind, "value": {key: value}}

        said = [part("verdict", "choices", "choices", [verdict])] if verdict else []
        said += [part("better", "choices", "choices", [better])] if better else []
        said += [part("edited", "textarea", "text", [edited])] if edited else []
        said += [part("rating", "rating", "rating", rating)] if rating else []
        body = {"result": said, **more} | ({"completed_by": by} if by else {})
        return int(self.api("POST", f"/api/tasks/{task}/annotations", json=body).json()["id"])

    def another(self, email: str) -> int:
        """One more member; the user's id."""
        return int(self.api("POST", "/api/users", json={"email": email, "username": email, "password": os.urandom(8).hex()}).json()["id"])


def offered(count: int, correction: str | None = None) -> list[ReviewItem]:
    """Items that wait for a person, about corrections if there are any."""
    from tests.flywheel.ledger.conftest import ask, give

    with transaction() as db:
        before = {item.id for item in review.waiting(db, 10_000)}
    items = []
    for n in range(count):
        answer = ask(n, version="3")
        record = give(n, answer, correction=f"{correction} {n}", consent=True, user="Ada") if correction else None
        items.append(ReviewItem(answer_id=answer, feedback_id=record, reason="nobody knows", priority=count - n))
    with transaction() as db:
        review.offer(db, items)
        return [item for item in review.waiting(db, 10_000) if item.id not in before]
