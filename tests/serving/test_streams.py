"""A stream has the same end as a whole answer: its time is over, too, and its place is given back."""

import json

ASK = {"messages": [{"role": "user", "content": "count"}], "max_tokens": 100}


def test_an_answer_that_takes_too_long_ends_whether_it_is_streamed_or_not(words, behaviour, monkeypatch):
    monkeypatch.setenv("WORD_SECONDS", "0.1")
    behaviour(request_seconds=1)
    whole = words.post("/v1/chat/completions", json=ASK)
    assert whole.status_code == 503 and "more than 1 s" in whole.json()["error"]["message"]
    streamed = words.post("/v1/chat/completions", json={**ASK, "stream": True})
    *pieces, last = [json.loads(line[6:]) for line in streamed.text.splitlines() if line.startswith("data: ")]
    assert 0 < len(pieces) < 100 and last == {"error": {**whole.json()["error"]}}
    assert words.app.state.answerer.admission.running == 0


def test_an_answer_keeps_no_place_at_the_engine_while_it_is_stored(words, monkeypatch):
    answerer, running = words.app.state.answerer, []
    add = answerer.store.add

    async def adding(given):
        running.append(answerer.admission.running)
        return await add(given)

    monkeypatch.setattr(answerer.store, "add", adding)
    for stream in (False, True):
        assert words.post("/v1/chat/completions", json={**ASK, "max_tokens": 4, "stream": stream}).status_code == 200
    assert running == [0, 0]
