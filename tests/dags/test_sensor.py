"""Which feedback files are new."""

import json

from dags.launch import sensor


def test_fresh_segments(home):
    store = home / "store"

    def put(path, text=""):
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        (store / path).write_text(text)

    assert sensor.fresh_segments(str(store)) == []
    put("feedback/segments/1.jsonl")
    put("feedback/segments/2.jsonl")
    put("feedback/claimed/1.jsonl")
    assert sensor.fresh_segments(str(store)) == ["2.jsonl"]
    put("feedback/waiting.json", json.dumps({"segments": ["1.jsonl", "2.jsonl"], "until": "2999-01-01T00:00:00+00:00"}))
    assert sensor.fresh_segments(str(store)) == []
    put("feedback/segments/3.jsonl")
    assert sensor.fresh_segments(str(store)) == ["2.jsonl", "3.jsonl"]
    put("feedback/waiting.json", json.dumps({"segments": ["2.jsonl", "3.jsonl"], "until": "2020-01-01T00:00:00+00:00"}))
    assert sensor.fresh_segments(str(store)) == ["2.jsonl", "3.jsonl"]
