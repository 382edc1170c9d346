"""Policy, own feedback, the review queue and quality over HTTP, on a real ledger: none of them needs an engine."""

import uuid
from datetime import UTC, datetime

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.testclient import TestClient

from flywheel import datasets, ledger, manifest, store
from flywheel.errors import FlywheelError
from flywheel.ledger import review as queue
from flywheel.manifest import Artifact, Cost, Manifest
from flywheel.settings import settings
from serving import feedback, mine, policy, quality, review
from serving.app import _ours
from serving.auth import Principal


@pytest.fixture
def api(database, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_MLFLOW_URL", "http://127.0.0.1:9")  # nobody
    monkeypatch.setenv("FLYWHEEL_LABEL_STUDIO_URL", "http://127.0.0.1:9")
    settings.cache_clear()
    quality._read.cache_clear()
    app = FastAPI()
    for room in (feedback, mine, policy, quality, review):
        app.include_router(room.router)
    app.add_exception_handler(FlywheelError, _ours)
    return TestClient(app)


def say(api, answer, user="Ada", **said):
    body = {"answer_id": answer, "idempotency_key": uuid.uuid4().hex, "user": user, **said}
    return api.post("/v1/feedback", json=body).json()["id"]


def test_the_policy_is_accepted_once_a_version_and_a_changed_text_is_asked_again(api, home, monkeypatch):
    home.mkdir(exist_ok=True)
    monkeypatch.setenv("FLYWHEEL_POLICY", str(home / "policy.md"))
    settings.cache_clear()
    (home / "policy.md").write_text("<!-- how to\nedit -->\n# Be good")
    found = api.get("/v1/policy", params={"user": "Ada"}).json()
    assert (found["text"], found["accepted"]) == ("# Be good", None)
    done = api.post("/v1/policy", json={"user": "Ada", "version": found["version"]})
    assert done.status_code == 201 and done.json()["accepted"]
    again = api.post("/v1/policy", json={"user": "Ada", "version": found["version"]})
    assert again.json()["accepted"] == done.json()["accepted"]
    assert api.get("/v1/policy", params={"user": "Bo"}).json()["accepted"] is None
    (home / "policy.md").write_text("# Be very good")
    assert api.get("/v1/policy", params={"user": "Ada"}).json()["accepted"] is None
    stale = api.post("/v1/policy", json={"user": "Ada", "version": found["version"]})
    assert stale.status_code == 400 and "Read it again" in stale.json()["error"]["message"]
    (home / "policy.md").unlink()
    assert "no such file" in api.get("/v1/policy").json()["error"]["message"]


def test_people_see_what_they_said_and_nobody_elses(api):
    answer = ledger.add_answer("2 + 2?", "", "5", "7")
    first, second = say(api, answer, thumb="down", correction="4"), say(api, answer, rating=2)
    say(api, answer, user="Bo", thumb="up")
    api.post(f"/v1/feedback/{second}/withdraw", json={"user": "Ada"})
    found = api.get("/v1/feedback", params={"user": "Ada"}).json()["data"]
    assert [(r["id"], r["verdict"], r["withheld"]) for r in found] == [(second, "2/5", "withdrawn"), (first, "down", "")]
    assert found[1]["prompt"] == "2 + 2?" and found[1]["model_version"] == "7"


def test_a_decision_is_made_once_and_everyone_sees_who_made_it(api):
    answer = ledger.add_answer("2 + 2?", "", "5", "7")
    with ledger.transaction() as db:
        queue.offer(db, [queue.ReviewItem(answer_id=answer, reason="unsure")])
    shown = api.get("/v1/review", params={"reviewer": "Ada"}).json()
    assert shown["label_studio"] == "http://127.0.0.1:9"
    (item,) = shown["data"]
    assert (item["prompt"], item["reason"]) == ("2 + 2?", "unsure")
    assert api.post(f"/v1/review/{item['id']}", json={"reviewer": "Ada", "decision": "skip"}).json() == {"feedback_id": None}
    assert api.get("/v1/review", params={"reviewer": "Ada"}).json()["data"] == []
    done = api.post(f"/v1/review/{item['id']}", json={"reviewer": "Bo", "decision": "edit", "correction": "4"}).json()
    assert ledger.find(done["feedback_id"]).body["correction"] == "4"
    late = api.post(f"/v1/review/{item['id']}", json={"reviewer": "Cy", "decision": "approve"})
    assert late.status_code == 400 and "decided before" in late.json()["error"]["message"]
    decided = api.get("/v1/review").json()["decided"]
    assert [(d["reviewer"], d["decision"]) for d in decided] == [("Bo", "edit"), ("Ada", "skip")]


def test_with_a_token_nobody_speaks_for_another(api):
    def door(request: Request):
        request.state.caller = Principal(name="s1", scopes=frozenset({"feedback", "review"}), person="ada@example.org")

    app = FastAPI(dependencies=[Depends(door)])
    for room in (feedback, mine, policy, review):
        app.include_router(room.router)
    ada, answer = TestClient(app), ledger.add_answer("2 + 2?", "", "5", "7")
    said = say(ada, answer, user="Bo", thumb="down")
    assert ledger.find(said).body["user"] == "ada@example.org"
    say(api, answer, user="Bo", thumb="up")
    assert [r["id"] for r in ada.get("/v1/feedback", params={"user": "Bo"}).json()["data"]] == [said]
    with ledger.transaction() as db:
        queue.offer(db, [queue.ReviewItem(answer_id=answer, reason="unsure")])
    (item,) = api.get("/v1/review").json()["data"]
    ada.post(f"/v1/review/{item['id']}", json={"reviewer": "Bo", "decision": "approve"})
    assert [d["reviewer"] for d in ada.get("/v1/review").json()["decided"]] == ["ada@example.org"]
    version = ada.get("/v1/policy").json()["version"]
    ada.post("/v1/policy", json={"user": "Bo", "version": version})
    assert api.get("/v1/policy", params={"user": "Bo"}).json()["accepted"] is None


def test_quality_counts_by_day_and_version_and_says_what_is_away(api):
    old, new = ledger.add_answer("a", "", "x", "1"), ledger.add_answer("b", "", "y", "2")
    say(api, old, thumb="down", correction="z", tags=["wrong", "unclear"])
    say(api, new, rating=5, tags=["wrong"])
    gone = say(api, new, thumb="down", user="Bo")
    api.post(f"/v1/feedback/{gone}/withdraw", json={"user": "Bo"})
    found = api.get("/v1/quality").json()
    assert [(t["version"], t["answers"], t["up"], t["down"], t["corrected"], t["tags"]) for t in found["trends"]] == [
        ("1", 1, 0, 1, 1, {"wrong": 1, "unclear": 1}), ("2", 1, 1, 0, 0, {"wrong": 1}),
    ]  # fmt: skip
    assert found["versions"] == [] and found["turn"] is None and any("registry does not answer" in problem for problem in found["problems"])


def test_quality_tells_the_last_turn_and_what_was_dropped(api):
    run = store.join(settings().store, "runs", "flywheel", "manual__2026-01-01")
    now = datetime(2026, 1, 1, tzinfo=UTC)

    def finish(stage, outputs=(), **metrics):
        held = {name: Artifact(uri=f"{store.relative(run)}/{name}", sha256="0", bytes=0) for name in outputs}
        cost = Cost(wall_seconds=60, money=0.5)
        manifest.write(Manifest(stage=stage, run_dir=store.relative(run), attempt=1, cache_key="", metrics=metrics, outputs=held, cost=cost, started=now, ended=now), run)  # fmt: skip

    artifact = Artifact(uri="x", sha256="0", bytes=0)
    datasets.write(datasets.Version(
        id="ab" * 32, created="2026-01-01T00:00:00+00:00", run_dir=store.relative(run), records={"train": 9}, kinds={}, slices={"sums": 9},
        sources=[datasets.SourceCount(name="docs", licence="x", consent="y", records=9)], raw=artifact, content={}, profile=artifact, card=artifact, report=artifact,
    ))  # fmt: skip
    finish("ingest", rejected=2)
    finish("clean", rejected=3, **{"rejected.length": 2, "rejected.secrets": 1})
    finish("train", new_examples=7, replayed=0)
    store.write_bytes(
        store.join(run, "verdict"), b'{"verdict": "refuse", "paragraph": "It is refused.", "rules": [{"name": "safety", "outcome": "refuse", "text": "worse"}]}'
    )
    finish("gate", ["verdict"])
    finish("register", page="http://127.0.0.1:9/run/report/report.html")
    assert api.get("/v1/quality").json()["turn"] is None  # it has not ended
    quality._read.cache_clear()
    finish("rollout")
    found = api.get("/v1/quality").json()
    turn = found["turn"]
    assert (turn["outcome"], turn["story"], turn["learned"]["new examples learned"], turn["money"]) == ("refuse", "It is refused.", 7, 3.0)
    assert (
        turn["links"] == {"Report": "http://127.0.0.1:9/run/report/report.html", "Data report": "http://127.0.0.1:9/run/dataset/report.html"}
        and turn["rules"][0]["name"] == "safety"
    )
    assert found["data"][0]["dropped"] == {"ingest": 2, "length": 2, "secrets": 1} and found["data"][0]["sources"] == {"docs": 9}
