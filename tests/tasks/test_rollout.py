"""Trials of a challenger on a real registry and a real ledger, with answers made here in serving's place."""

import json
import threading
import time
import uuid
from types import SimpleNamespace

import httpx
import pytest

from flywheel import ledger, registry
from flywheel.config import Rollout
from flywheel.errors import DataError
from flywheel.ledger import Outcome
from flywheel.manifest import Artifact
from flywheel.records import FeedbackIn
from flywheel.registry import TAG, Desired, Version
from tasks import rollout

NOTHING, ONE, TWO = (Artifact(uri="x", sha256=digit * 64, bytes=0) for digit in "012")


@pytest.fixture
def adapters():
    """Of versions 1 and 2."""
    return ONE, TWO


@pytest.fixture
def versions(database, mlflow_server, adapters):
    """Version 1 is the champion, version 2 is promising."""
    from flywheel.settings import settings

    client = registry.client()
    client.create_registered_model(settings().model_name)
    for parent, adapter in zip((None, 1), adapters, strict=True):
        made = Version(
            base="b", prompt="auto", adapter=adapter, package=NOTHING, dataset="d", trained_ids=NOTHING, suites=NOTHING, reference=parent, parent=parent,
            verdict="promote", reason="better", run_dir="runs/x",
        )  # fmt: skip
        client.create_model_version(settings().model_name, "s3://nowhere/adapter", tags={TAG: made.model_dump_json(exclude={"version"})})
    registry.promote(1, "test", "first")


@pytest.fixture
def people(versions, monkeypatch):
    """Serving and its people: while a challenger is live they ask, and `ask(arm)` says how an answer went. Gives a way to start them."""
    monkeypatch.setattr(rollout, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(rollout.httpx, "get", lambda *_, **__: httpx.Response(200, json={"model_version": "1", "versions": ["1", "2"]}))
    over = threading.Event()
    threads = []

    def start(ask, thumb=None):
        def run():
            while not over.is_set():
                desired = registry.desired()
                if desired.live:
                    went = [Outcome(2, arm, "2" if arm == "challenger" else "1", 0.5, 10, **ask(arm)) for arm in ("champion", "challenger") for _ in range(10)]
                    ledger.add_outcomes(went)
                    if thumb:
                        for version in ("1", "2"):
                            answer = ledger.add_answer("q", "", "a", version)
                            ledger.add_many([FeedbackIn(answer_id=answer, idempotency_key=uuid.uuid4().hex, thumb=thumb(version))])
                time.sleep(0.02)

        threads.append(threading.Thread(target=run))
        threads[-1].start()

    yield start
    over.set()
    for thread in threads:
        thread.join()


def trial(**more):
    ctx = SimpleNamespace(run_dir="runs/t/night", metrics={}, say=lambda _: None, progress=lambda _: None, stop_requested=False)
    conf = Rollout(shadow_seconds=0.3, step_seconds=0.3, **more)
    rollout.try_out(ctx, 2, conf)
    return ctx


def night():
    """The stage's context in a run that registered version 2; `skipped` is what it was skipped for."""
    ctx = SimpleNamespace(run_dir="runs/t/night", metrics={}, skipped=[], say=lambda _: None, config=SimpleNamespace(rollout=Rollout()))
    ctx.skip = ctx.skipped.append
    ctx.upstream = lambda _: SimpleNamespace(metrics={"version": 2})
    ctx.fetch = lambda _: SimpleNamespace(read_bytes=lambda: json.dumps({"verdict": "promote", "approval": "", "reason": "better"}))
    return ctx


def told():
    return [(e["action"], e["detail"].get("share")) for e in reversed(ledger.list_events())][1:]


def test_a_healthy_challenger_goes_through_every_step(people):
    people(lambda arm: {})
    assert trial(step_answers=50).metrics["trial_answers"] >= 50
    assert told() == [("shadow", 0.0), ("canary", 0.05), ("canary", 0.25), ("canary", 1.0)]
    assert registry.desired().share == 1.0  # the promotion takes over from there


@pytest.mark.parametrize(("change", "thumb", "words"), [({"failed": True}, None, "errors"), ({"refused": True}, None, "refusals"), ({}, "down", "thumbs down")])
def test_a_bad_one_is_taken_back_at_the_first_breach(people, change, thumb, words):
    people(lambda arm: change if arm == "challenger" else {}, (lambda version: thumb if version == "2" else "up") if thumb else None)
    with pytest.raises(DataError, match=words):
        trial(step_answers=10_000)
    assert not registry.desired().live and registry.alias("champion") == 1
    event = ledger.list_events(1)[0]
    assert event["action"] == "return" and words in event["detail"]["reason"]


@pytest.fixture
def rollback():
    """Ada's, in a thread of its own."""
    return threading.Thread(target=registry.rollback, args=("ada", "it is rude"))


def test_rollback_ends_a_trial_and_leaves_the_champion(people, monkeypatch, rollback):
    """Even one that comes while the trial renews its lease."""
    people(lambda arm: {})
    desired = registry.desired

    def interrupted():
        found = desired()
        if threading.current_thread() is threading.main_thread() and found.live and not rollback.ident:
            rollback.start()
            rollback.join(0.5)
        return found

    monkeypatch.setattr(registry, "desired", interrupted)
    with pytest.raises(DataError, match="somebody ended"):
        trial(step_answers=10**6, trial_seconds=20)
    rollback.join()
    assert registry.alias("champion") == 1 and not desired().live
    assert any(e["action"] == "return" and e["actor"] == "ada" and "rude" in json.dumps(e["detail"]) for e in ledger.list_events())


def test_rollback_ends_a_trial_that_waits_for_serving(people, monkeypatch, rollback):
    def without(*_, **__):
        if registry.desired().live and not rollback.ident:
            rollback.start()
        return httpx.Response(200, json={"model_version": "1", "versions": ["1"]})

    monkeypatch.setattr(rollout.httpx, "get", without)
    with pytest.raises(DataError, match="somebody ended"):
        trial(wait_seconds=20)
    rollback.join()


def test_a_rollback_after_the_last_look_leaves_the_champion(versions, monkeypatch):
    def tried(ctx, number, conf):
        registry.set_traffic(Desired(challenger=number, stage="canary", share=1.0, lease_until=time.time() + 30))
        registry.rollback("ada", "it is rude")

    monkeypatch.setattr(rollout, "try_out", tried)
    with pytest.raises(DataError, match="somebody ended"):
        rollout.run(night())
    assert registry.alias("champion") == 1 and not registry.desired().live


@pytest.mark.parametrize("adapters", [(ONE, ONE)])
def test_the_champions_own_adapter_is_not_tried_again(versions):
    """A turn with another margin of the gate learns nothing new."""
    ctx = night()
    rollout.run(ctx)
    assert ctx.skipped == ["its adapter is the champion's: version 2 is version 1, judged once more"] and registry.alias("champion") == 1


def test_too_few_answers_are_no_trial(people):
    with pytest.raises(DataError, match="only 0 answers"):
        trial(step_answers=10, trial_seconds=0.5)


def test_a_lease_that_nobody_renews_ends(versions):
    registry.set_traffic(Desired(challenger=2, stage="canary", share=0.5, lease_until=time.time() - 1))
    assert registry.desired().share == 0.5 and not registry.desired().live
