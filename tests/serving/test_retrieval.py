"""Retrieval through the whole service, driven by OpenAI's own client: sources come back and are right, or nothing does."""

from __future__ import annotations

import json

import pytest
from openai import BadRequestError, NotFoundError, OpenAI

from flywheel import ledger
from flywheel.settings import settings
from rag.grounding import UNKNOWN
from rag.index import Wanted, build
from serving.auth import new_key
from tests.rag.conftest import LIBRARY, passages

TEXTS = {document.uri: document.text for document in LIBRARY}


@pytest.fixture
def tenants(behaviour):
    """Keys of three callers: of no tenant, of one, and of another."""
    made = {name: new_key(name or "nobody", ["generate"]) for name in ("", "acme", "other")}
    entries = [entry | ({"tenants": [name]} if name else {}) for name, (_, entry) in made.items()]
    behaviour(auth="required", keys=json.dumps(entries))
    return {name: key for name, (key, _) in made.items()}


@pytest.fixture
def openai(tenants, api):
    return OpenAI(base_url="http://testserver/v1", api_key=tenants[""], http_client=api, max_retries=0)


def ask(client, question, key="", **retrieval):
    asked = {"model": settings().model_name, "messages": [{"role": "user", "content": question}], "max_tokens": 8}
    return (client.with_options(api_key=key) if key else client).chat.completions.create(**asked, extra_body={"retrieval": retrieval})


def test_sources_come_back_and_are_right(openai, api, tenants):
    headers = {"authorization": f"Bearer {tenants['']}"}
    build(passages(), Wanted())
    done = ask(openai, "How long does the Moon take around the Earth?", k=2)
    first = done.sources[0]
    assert first["document"] == "moon.md" and first["number"] == 1
    assert all(TEXTS[s["document"]][s["start"] : s["end"]] == s["text"] for s in done.sources)
    stored = ledger_answer(done.id)
    assert stored.prompt == "How long does the Moon take around the Earth?" and "[1] Sky › Moon" in stored.input and "twenty-seven" in stored.input
    body = {"instruction": "Which flour?", "max_new_tokens": 4, "retrieval": {"filter": {"topic": "food"}}}
    given = api.post("/v1/generate", json=body, headers=headers).json()
    assert {s["document"] for s in given["sources"]} == {"bread.md"} and "citations" in given
    assert "sources" not in api.post("/v1/generate", json={"instruction": "hi", "max_new_tokens": 2}, headers=headers).json()


def ledger_answer(answer_id):
    from flywheel.ledger.schema import answers

    with ledger.transaction() as db:
        return db.execute(answers.select().where(answers.c.id == answer_id)).one()


def test_a_document_one_tenant_may_not_see_never_shows(openai, api, tenants):
    build(passages(), Wanted())
    question = "What is the secret chestnut flour of the house?"
    for name in ("", "other"):
        done = ask(openai, question, tenants[name], k=2)
        assert "secret.md" not in [s["document"] for s in done.sources] and "chestnut" not in ledger_answer(done.id).input
    assert ask(openai, question, tenants["acme"], k=1).sources[0]["document"] == "secret.md"
    forged = {"instruction": question, "user": "acme", "retrieval": {"tenants": ["acme"]}}
    assert api.post("/v1/generate", json=forged, headers={"authorization": f"Bearer {tenants['']}"}).status_code == 400


def test_what_nothing_supports_is_not_answered(openai):
    build(passages(), Wanted())
    done = ask(openai, "Who won the chess championship of Reykjavik in 1972?")
    assert done.choices[0].message.content == UNKNOWN and done.sources == [] and done.usage.completion_tokens == 0


def test_without_an_index_there_is_a_sentence(openai):
    with pytest.raises(NotFoundError, match="no such index"):
        ask(openai, "anything")


def test_a_stream_ends_with_its_sources(openai):
    build(passages(), Wanted())
    asked = {"model": settings().model_name, "messages": [{"role": "user", "content": "How long does the Moon take around the Earth?"}], "max_tokens": 4}
    chunks = list(openai.chat.completions.create(**asked, stream=True, extra_body={"retrieval": {"k": 2}}))
    assert chunks[-1].sources[0]["document"] == "moon.md" and chunks[-1].choices == []


def test_passages_for_which_there_is_no_room_are_left_out_whole(openai):
    build(passages(), Wanted())  # the model's context has 512 tokens, each of them a byte
    done = ask(openai, "Which flour rests overnight, and where is the Moon?", k=4)
    used = [s for s in done.sources if s["used"]]
    assert 0 < len(used) < len(done.sources) and [s["number"] for s in done.sources] == list(range(1, len(done.sources) + 1))
    assert used == done.sources[: len(used)] and not any(s["cited"] for s in done.sources[len(used) :])
    shown = ledger_answer(done.id).input
    assert all((s["text"] in shown) == s["used"] for s in done.sources)
    with pytest.raises(BadRequestError, match="no passage fits"):
        ask(openai, "flour " * 60)
