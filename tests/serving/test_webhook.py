"""Label Studio's knock: who may, what is read of it, and that it is answered before anything is asked."""

import asyncio
import logging

import httpx
import pytest

from flywheel.labelling.project import HEADER, HOOK
from flywheel.settings import settings
from serving import webhook
from serving.app import app
from tests.conftest import free_port

KNOCK = {"action": "ANNOTATION_CREATED", "project": {"id": 1, "title": "x"}, "task": {"id": 7, "data": {}}, "annotation": {"id": 3, "result": []}}


@pytest.fixture
def knock(database, monkeypatch):
    """Sends one, and waits until what it started has ended; `LabelStudio` is down."""
    monkeypatch.setenv("FLYWHEEL_LABEL_STUDIO_URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("FLYWHEEL_LABEL_STUDIO_TOKEN", "t" * 40)
    monkeypatch.setenv("FLYWHEEL_LABEL_STUDIO_SECRET", "s" * 64)
    settings.cache_clear()

    def knock(secret, body=KNOCK):
        async def once():
            webhook.knocks = webhook.Knocks()
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://door") as client:
                reply = await client.post(HOOK, json=body, headers={HEADER: secret} if secret else {})
                at_once = dict(webhook.knocks.waiting)
            if webhook.knocks.worker:
                await webhook.knocks.worker
            return reply, at_once

        return asyncio.run(once())

    return knock


@pytest.mark.parametrize("secret", ["", "wrong", "s" * 63, "é".encode()])
def test_a_wrong_secret_is_a_sentence_and_nothing_is_looked_at(knock, secret):
    reply, waiting = knock(secret)
    assert reply.status_code == 401 and "is not this service's secret" in reply.json()["error"]["message"] and not waiting


def test_the_right_one_is_answered_before_label_studio_is_asked_and_its_absence_is_a_sentence(knock, database, caplog):
    from flywheel import ledger
    from flywheel.ledger import schema

    with ledger.transaction() as db:
        db.execute(schema.label_projects.insert().values(url=settings().label_studio_url, project=1))
    with caplog.at_level(logging.WARNING):
        reply, waiting = knock("s" * 64)
    assert reply.status_code == 202 and list(waiting) == [(1, 7)]
    assert "Label Studio does not answer (ConnectError)" in caplog.text and "Traceback" not in caplog.text


def test_another_project_and_many_tasks(knock, caplog):
    with caplog.at_level(logging.WARNING):
        reply, waiting = knock("s" * 64, {**KNOCK, "task": [{"id": 1}, {"id": 2}, {"id": 1}]})
    assert reply.status_code == 202 and list(waiting) == [(1, 1), (1, 2)]
    assert "project 1 in Label Studio is not the flywheel's" in caplog.text


@pytest.mark.parametrize("body", [{}, {"project": {"id": 1}}, {"project": {"id": -1}, "task": {"id": 1}}, []])
def test_what_is_no_knock_is_refused(knock, body):
    assert knock("s" * 64, body)[0].status_code == 400


def test_where_none_is_set_up_there_is_none(knock, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_LABEL_STUDIO_SECRET", "")
    settings.cache_clear()
    assert knock("")[0].status_code == 404
