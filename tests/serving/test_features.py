"""Features at serving, against a stand-in for Feast's server: what they change, what is logged of them, and that off they cost nothing.

The real server, and that what serving read equals the offline join, is in tests/features.
"""

from __future__ import annotations

import http.server
import json
import threading
import time
from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from flywheel import features, ledger
from flywheel.feature_rows import prompt_key
from flywheel.ledger.schema import answers
from flywheel.settings import settings
from serving.auth import Principal
from serving.features import Features
from serving.pool import Pool
from serving.settings import serving

NOW = datetime.now(UTC).isoformat()
KNOWN = {"Ada": {"user_profile__tier": "gold", "user_profile__locale": "de"}, prompt_key("why?", "b"): {"prompt_stats__topic": "reasons"}}


@pytest.fixture
def feast(monkeypatch):
    """A server of features that says what it was asked; gives its log and its switches."""
    log, state = [], {"status": 200}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            ((_, (key,)),) = body["entities"].items()
            log.append(key)
            names = [name.replace(":", "__") for name in body["features"]]
            values = [KNOWN.get(key, {}).get(name) for name in names]
            results = [{"values": [v], "statuses": ["PRESENT" if v else "NOT_FOUND"], "event_timestamps": [NOW]} for v in values]
            content = json.dumps({"metadata": {"feature_names": names}, "results": results}).encode()
            self.send_response(state["status"])
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(features, "TIMEOUT", 30)
    monkeypatch.setattr(features, "_away_until", 0.0)
    features._client.cache_clear()
    yield log, state, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    features._client.cache_clear()


def switched_on(feast, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_FEATURES_URL", feast[2])
    settings.cache_clear()


def ask(api, **more):
    reply = api.post("/v1/generate", json={"instruction": "why?", "input": "b", "max_new_tokens": 2, **more})
    assert reply.status_code == 200, reply.text
    return reply.json()


def stored(answer_id):
    with ledger.transaction() as db:
        return db.execute(answers.select().where(answers.c.id == answer_id)).one()


def reads(count):
    until = time.monotonic() + 30
    while len(found := features.reads(datetime(2026, 1, 1, tzinfo=UTC))) < count and time.monotonic() < until:
        time.sleep(0.05)
    return found


def test_off_nothing_is_read_and_on_the_model_is_told_what_the_settings_name(feast, api, behaviour, monkeypatch):
    behaviour(prompt_features='["tier", "locale", "topic"]')
    assert stored(ask(api, user="Ada")["answer_id"]).input == "b" and feast[0] == []
    switched_on(feast, monkeypatch)
    before = api.post("/v1/generate", json={"instruction": "why?", "input": "b", "max_new_tokens": 2}).json()["prompt_tokens"]
    given = ask(api, user="Ada")
    kept = stored(given["answer_id"])
    assert (kept.prompt, kept.input) == ("why?", "b\n\nKnown about this request: tier gold, locale de, topic reasons.")
    assert given["prompt_tokens"] == before - len("standard") - len("en") + len("gold") + len("de")  # a byte each: the model was told what the ledger says
    assert prompt_key(kept.prompt, kept.input) == prompt_key("why?", "b")  # what serving added makes it no other question
    found = reads(3)
    assert {(entity, key) for _, entity, key, _ in found} == {("user", "Ada"), ("prompt", prompt_key("why?", "b"))}  # nothing is known of anonymous
    assert next(views for _, _, key, views in found if key == "Ada")["user_profile"] == {"values": {"tier": "gold", "locale": "de"}, "as_of": NOW}
    chat = {"messages": [{"role": "user", "content": "why?"}], "max_tokens": 2, "user": "Ada", "model": settings().model_name}
    done = api.post("/v1/chat/completions", json=chat).json()
    assert stored(done["id"]).prompt == "why?" and stored(done["id"]).input.startswith("Known about this request: tier gold")


def test_a_tier_is_sent_to_its_version(feast, api, behaviour, monkeypatch):
    behaviour(tier_versions='{"gold": "champion", "standard": "99"}')
    assert ask(api, user="Eve")["model_version"] == "base"  # features are off
    switched_on(feast, monkeypatch)
    assert ask(api, user="Ada")["model_version"] == "base"
    assert api.post("/v1/generate", json={"instruction": "why?", "user": "Eve"}).status_code == 404  # version 99


def test_a_server_that_is_down_is_asked_once_and_answers_go_on(feast, api, behaviour, monkeypatch, caplog):
    behaviour(prompt_features='["tier"]')
    switched_on(feast, monkeypatch)
    feast[1]["status"] = 500
    for _ in range(3):
        assert stored(ask(api, user="Ada")["answer_id"]).input.endswith("tier standard.")
    assert len(feast[0]) == 1 and caplog.text.count("the feature server does not answer") == 1


def test_the_rate_tier_is_the_persons_own_and_never_a_name_in_the_request(feast, monkeypatch, database):
    import asyncio

    async def tier(**caller):
        return (await Features(Pool()).tiered(Principal(name="x", scopes=frozenset(), **caller))).tier

    assert asyncio.run(tier(person="Ada")) == "standard"
    switched_on(feast, monkeypatch)
    assert asyncio.run(tier(person="Ada")) == "gold" and asyncio.run(tier(tier="silver")) == "silver"

    async def twice():
        known, ada = Features(Pool()), Principal(name="x", scopes=frozenset(), person="Ada")
        return [(await known.tiered(ada)).tier for _ in range(2)]

    asked = len(feast[0])
    assert asyncio.run(twice()) == ["gold", "gold"] and len(feast[0]) == asked + 1  # not every request waits for a read


def test_a_feature_that_nobody_knows_stops_the_service(behaviour):
    behaviour(prompt_features='["height"]')
    with pytest.raises(ValidationError, match="there is no feature height"):
        serving()
