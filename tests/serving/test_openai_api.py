"""The official client against the running service: everything it can ask for here, and every way to ask wrongly."""

import json
import threading
import time

import pytest
from openai import APIStatusError, BadRequestError, NotFoundError, OpenAI

from flywheel.settings import settings

ASK = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(api):
    return OpenAI(base_url="http://testserver/v1", api_key="none", http_client=api, max_retries=0)


def chat(client, **more):
    return client.chat.completions.create(model=settings().model_name, messages=ASK, **{"max_tokens": 12, **more})


def test_the_client_chats_streams_completes_embeds_and_lists(client, api):
    whole = chat(client, logprobs=True)
    said = whole.choices[0]
    assert whole.usage.completion_tokens == 12 and said.finish_reason == "length" and whole.model_version == "base"
    assert len(said.logprobs.content) == 12 and all(token.logprob <= 0 for token in said.logprobs.content)
    events = list(chat(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(e.choices[0].delta.content or "" for e in events if e.choices).strip() == said.message.content
    assert events[0].choices[0].delta.role == "assistant" and events[-2].choices[0].finish_reason == "length"
    assert events[-1].usage == whole.usage and not events[-1].choices
    body = {"answer_id": events[0].id, "idempotency_key": "a-key-of-ours", "thumb": "up"}
    assert api.post("/v1/feedback", json=body).status_code == 201  # the stream's answer is in the ledger
    several = chat(client, n=3, temperature=1.5, seed=7)
    assert [c.index for c in several.choices] == [0, 1, 2] and several.usage.completion_tokens <= 36
    assert len({c.answer_id for c in several.choices}) == 3 and len({c.message.content for c in several.choices}) > 1
    pieces = list(chat(client, n=2, stream=True))
    assert {c.choices[0].index for c in pieces} == {0, 1} and sum(c.choices[0].finish_reason == "length" for c in pieces) == 2
    parts = client.chat.completions.create(model=settings().model_name, messages=[{"role": "user", "content": [{"type": "text", "text": "hi"}]}], max_tokens=12)
    assert parts.choices[0].message.content == said.message.content
    done = client.completions.create(model=settings().model_name, prompt=["one", "two"], max_tokens=4, logprobs=1)
    assert len(done.choices) == 2 and len(done.choices[0].logprobs.tokens) == 4
    assert (
        "".join(c.choices[0].text for c in client.completions.create(model=settings().model_name, prompt="one", max_tokens=4, stream=True)).strip()
        == done.choices[0].text
    )
    vectors = client.embeddings.create(model="all-minilm-l6-v2", input=["the sea", "the ocean", "a tax form"]).data
    near, far = (sum(a * b for a, b in zip(vectors[0].embedding, vectors[i].embedding, strict=True)) for i in (1, 2))
    assert near > far and client.models.retrieve(settings().model_name).id == settings().model_name


def test_a_stop_string_ends_an_answer_before_it(client):
    whole = chat(client).choices[0].message.content
    stop = whole[3:5]
    cut = chat(client, stop=[stop]).choices[0]
    assert cut.finish_reason == "stop" and cut.message.content == whole[: whole.index(stop)].strip()
    streamed = "".join(e.choices[0].delta.content or "" for e in chat(client, stop=stop, stream=True))
    assert streamed.strip() == cut.message.content


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"max_tokens": 0}, "max_tokens"), ({"max_tokens": 10**9}, "max_tokens"), ({"temperature": -1}, "temperature"), ({"n": 100}, "n:"),
        ({"extra_body": {"tools": []}}, "tools"), ({"response_format": {"type": "json_object"}}, "response_format"), ({"stop": ["x"] * 9}, "stop"),
        ({"messages": [{"role": "user", "content": "word " * 600}]}, "tokens"), ({"messages": [{"role": "tool", "content": "x"}]}, "role"),
        ({"frequency_penalty": 1}, "frequency_penalty"), ({"stream_options": {"include_usage": True}}, "stream_options"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_openais_shape(client, change, words):
    with pytest.raises(BadRequestError, match=words) as raised:
        client.chat.completions.create(**{"model": settings().model_name, "messages": ASK, **change})
    assert raised.value.body["type"] == "invalid_request_error"


def test_unknown_models_and_versions_are_not_found(client):
    for name in ("gpt-9", f"{settings().model_name}:77", f"{settings().model_name}:../x"):
        with pytest.raises(NotFoundError):
            client.chat.completions.create(model=name, messages=ASK)
    with pytest.raises(NotFoundError):
        client.embeddings.create(model="nothing", input="x")


def test_odd_bytes_and_large_bodies_are_the_clients_fault(api, behaviour):
    head = {"content-type": "application/json"}
    for body in (b'{"messages": "\xff\xfe"}', b'{"messages"', b"[]", b"null", b""):
        reply = api.post("/v1/chat/completions", content=body, headers=head)
        assert reply.status_code == 400 and reply.json()["error"]["message"]
    large = api.post("/v1/chat/completions", content=b'{"x": "' + b"a" * 10_000_000 + b'"}', headers=head)
    assert large.status_code == 413 and "larger" in large.json()["error"]["message"]
    assert api.put("/v1/models").status_code == 405


def test_the_same_greedy_question_is_decoded_once_unless_refused(client, api):
    def decoded():
        return sum(float(line.split()[-1]) for line in api.get("/metrics").text.splitlines() if line.startswith("flywheel_queue_seconds_count"))

    first = chat(client)
    before = decoded()
    again = chat(client)
    assert decoded() == before and again.choices == again.choices and again.id != first.id
    chat(client, extra_headers={"cache-control": "no-store"})
    chat(client, extra_body={"cache": False})
    assert decoded() == before + 2


def test_a_client_that_leaves_stops_the_decoding(client, api):
    answerer = api.app.state.answerer
    stream = chat(client, max_tokens=400, stream=True, extra_body={"cache": False})
    next(iter(stream))
    stream.close()
    until = time.monotonic() + 30
    while answerer.admission.running and time.monotonic() < until:
        time.sleep(0.02)
    assert answerer.admission.running == 0


def test_when_the_queue_is_full_the_rest_is_told_when_to_come_again(api, client, behaviour):
    admission = api.app.state.answerer.admission
    admission.most, admission.limit, admission.running = 1, 2, 1  # somebody is being answered
    told = []

    def ask(user):
        try:
            chat(client, user=user, extra_body={"cache": False})
            told.append(200)
        except APIStatusError as error:
            told.append((error.status_code, int(error.response.headers["retry-after"]) >= 1, json.loads(error.response.text)["error"]["type"]))

    people = [threading.Thread(target=ask, args=(f"user {i}",)) for i in range(3)]
    people[0].start()
    until = time.monotonic() + 30
    while admission.waiting < 1 and time.monotonic() < until:
        time.sleep(0.01)
    ask("me")  # one tenant, half of the queue
    admission.limit = 1
    ask("me")
    assert told == [(429, True, "rate_limit_error"), (503, True, "server_error")]
    admission.running = 0
    api.portal.call(admission._next)
    people[0].join()
    assert told[-1] == 200
