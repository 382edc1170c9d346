"""The door over HTTP on a real ledger, without an engine: feedback needs none."""

import asyncio
import uuid

import httpx
import pytest
from fastapi import FastAPI

from flywheel import ledger
from flywheel.errors import FlywheelError
from serving import feedback
from serving.app import _ours
from serving.group_commit import GroupCommit
from tests.flywheel.ledger.conftest import ask, curate, give, given, published


@pytest.fixture
def call(database):
    """One request to an application that has the door and nothing else."""
    app = FastAPI()
    app.include_router(feedback.router)
    app.add_exception_handler(FlywheelError, _ours)

    def call(method, path, **options):
        async def once():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
                return await client.request(method, path, **options)

        return asyncio.run(once())

    return call


def body(**more):
    return {"answer_id": ask(), "idempotency_key": uuid.uuid4().hex, "thumb": "down", **more}


def test_what_is_sent_together_is_committed_together_and_each_gets_its_own_answer(database, monkeypatch):
    groups = []
    real = ledger.add_many
    monkeypatch.setattr(ledger, "add_many", lambda group: groups.append(len(group)) or real(group))
    one = given(0)
    sent = [one, one, given(1, answer="unknown"), *(given(n) for n in range(2, 40))]

    async def together():
        door = GroupCommit(feedback.commit)
        return await asyncio.gather(*(door.add(g) for g in sent), return_exceptions=True)

    first, again, refused, *rest = asyncio.run(together())
    assert (first.new, again.new, again.id) == (True, False, first.id)
    assert "no such answer" in refused.sentence and all(r.new for r in rest)
    assert sum(groups) == len(sent) and len(groups) <= 3


def test_when_the_database_is_away_everybody_is_told(database, monkeypatch):
    def away(_group):
        raise OSError("away")

    monkeypatch.setattr(ledger, "add_many", away)

    async def together():
        door = GroupCommit(feedback.commit)
        told = await asyncio.gather(*(door.add(given(n, answer="a")) for n in range(5)), return_exceptions=True)
        monkeypatch.undo()
        return told, await door.add(given(9, answer=answer))

    answer = ask()
    told, later = asyncio.run(together())
    assert all(isinstance(t, OSError) for t in told) and later.new


def test_a_record_is_given_superseded_withdrawn_and_counted(call, home):
    first = body(user="Ada", correction="right", consent=True)
    made = call("POST", "/v1/feedback", json=first)
    assert (made.status_code, made.json()["stored"], made.json()["note"]) == (201, True, "")
    again = call("POST", "/v1/feedback", json=first)
    assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
    odd = call("POST", "/v1/feedback", json=body(given_at="1970-01-01T00:00:00Z")).json()
    assert odd["stored"] and "own clock" in odd["note"]
    curate(home)
    assert len(published()) == 1
    path = f"/v1/feedback/{made.json()['id']}"
    assert call("DELETE", path, params={"user": "Bob"}).status_code == 400
    assert call("DELETE", path, params={"user": "Ada"}).status_code == 200
    assert call("POST", f"{path}/withdraw", json={"user": "Ada"}).status_code == 200
    assert published() == []
    found = call("GET", "/v1/stats").json()
    assert (found["answers"], found["feedback"], found["approval"]) == (2, 1, 0.0)


def test_housekeeping_settles_what_is_superseded(database, home):
    answer = ask()
    give(1, answer, correction="right")
    curate(home)
    give(2, answer, correction="better", supersedes="key-000001")
    feedback.housekeeping()
    assert published() == [] and len(ledger.waiting()) == 1


def test_nobody_writes_a_review_through_the_door(call):
    refused = call("POST", "/v1/feedback", json=body(source="review"))
    assert refused.status_code == 400 and "deciding an item" in refused.text, refused.text
