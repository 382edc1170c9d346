"""Retrieval through the whole service, driven by OpenAI's own client: sources come back and are right, or nothing does."""

from __future__ import annotations

import time

import pytest
from fastapi.testclient import TestClient
from openai import NotFoundError, OpenAI

from flywheel import ledger
from flywheel.settings import settings
from rag.grounding import UNKNOWN
from rag.index import Wanted, build
from tests.rag.conftest import LIBRARY, passages

TEXTS = {document.uri: document.text for document in LIBRARY}


@pytest.fixture
def api(database, mlflow_server, home, tiny_model, monkeypatch):
    """The service behind a door that knows who asks: here, whoever the header `x-tenant` names."""
    home.mkdir(exist_ok=True)
    (home / "config.yaml").write_text(f"model: {{base: '{tiny_model}'}}\ningest: {{sources: [{{kind: docs, licence: x, consent: y}}]}}")
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(home / "config.yaml"))
    settings.cache_clear()
    from serving.app import app

    async def door(scope, receive, send):
        if scope["type"] == "http":
            scope.setdefault("state", {})["tenants"] = tuple(v.decode() for k, v in scope["headers"] if k == b"x-tenant")
        await app(scope, receive, send)

    with TestClient(door) as client:
        until = time.monotonic() + 180
        while client.get("/readyz").status_code != 200 and time.monotonic() < until:
            time.sleep(0.2)
        yield client


@pytest.fixture
def openai(api):
    return OpenAI(base_url="http://testserver/v1", api_key="none", http_client=api, max_retries=0)


def ask(client, question, tenant=None, **retrieval):
    headers = {"x-tenant": tenant} if tenant else {}
    return client.chat.completions.create(
        model="flywheel", messages=[{"role": "user", "content": question}], max_tokens=8, extra_body={"retrieval": retrieval}, extra_headers=headers
    )


def test_sources_come_back_and_are_right(openai, api):
    build(passages(), Wanted())
    done = ask(openai, "How long does the Moon take around the Earth?", k=2)
    first = done.sources[0]
    assert first["document"] == "moon.md" and first["number"] == 1
    assert all(TEXTS[s["document"]][s["start"] : s["end"]] == s["text"] for s in done.sources)
    stored = ledger_answer(done.id)
    assert stored.prompt == "How long does the Moon take around the Earth?" and "[1] Sky › Moon" in stored.input and "twenty-seven" in stored.input
    body = {"instruction": "Which flour?", "max_new_tokens": 4, "retrieval": {"filter": {"topic": "food"}}}
    given = api.post("/v1/generate", json=body).json()
    assert {s["document"] for s in given["sources"]} == {"bread.md"} and "citations" in given
    assert "sources" not in api.post("/v1/generate", json={"instruction": "hi", "max_new_tokens": 2}).json()


def ledger_answer(answer_id):
    from flywheel.ledger.schema import answers

    with ledger.transaction() as db:
        return db.execute(answers.select().where(answers.c.id == answer_id)).one()


def test_a_document_one_tenant_may_not_see_never_shows(openai, api):
    build(passages(), Wanted())
    question = "What is the secret chestnut flour of the house?"
    for tenant in (None, "other"):
        done = ask(openai, question, tenant, k=20)
        assert "secret.md" not in [s["document"] for s in done.sources] and "chestnut" not in ledger_answer(done.id).input
    assert ask(openai, question, "acme").sources[0]["document"] == "secret.md"
    forged = {"instruction": question, "user": "acme", "retrieval": {"tenants": ["acme"]}}
    assert api.post("/v1/generate", json=forged).status_code == 400


def test_what_nothing_supports_is_not_answered(openai):
    build(passages(), Wanted())
    done = ask(openai, "Who won the chess championship of Reykjavik in 1972?")
    assert done.choices[0].message.content == UNKNOWN and done.sources == [] and done.usage.completion_tokens == 0


def test_without_an_index_there_is_a_sentence(openai):
    with pytest.raises(NotFoundError, match="no such index"):
        ask(openai, "anything")
