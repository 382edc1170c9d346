"""Curation on a real ledger: consent, exactly once, and what waits."""

import json

import pytest

from flywheel import config, ledger, stage, store
from flywheel.records import Example, FeedbackIn
from flywheel.settings import REPOSITORY, settings
from tasks import curate, ingest


def feedback(number, correction="", consent=True):
    answer = ledger.add_answer(f"question {number}", "", "wrong", "1")
    ledger.add_feedback(
        FeedbackIn(answer_id=answer, idempotency_key=f"key-{number:06d}-{correction}", thumb="down", correction=correction or None, consent=consent)
    )


def run(name, *assignments):
    conf = config.load(str(REPOSITORY / "config" / "flywheel.yaml"), ["curate.min_batch=3", *assignments])
    return stage.execute(curate.STAGE, conf, store.join(settings().store, "runs", "feedback", name))


def published():
    return [Example.model_validate_json(line) for a in ingest.batches("").values() for line in a.fetch(settings().home / "cache").read_bytes().splitlines()]


def test_consented_corrections_become_examples_once(database):
    for number in range(3):
        feedback(number, f"right {number}")
    feedback(3, "secret", consent=False)
    feedback(4)
    feedback(0, "better 0")
    ledger.seal_segments()
    done = run("1")
    assert {k: done.metrics[k] for k in ("used", "superseded", "no_consent", "no_correction")} == {
        "used": 3,
        "superseded": 1,
        "no_consent": 1,
        "no_correction": 1,
    }
    assert sorted(e.output for e in published()) == ["better 0", "right 1", "right 2"]
    assert store.list_names(store.join(settings().store, ledger.CLAIMED)) == store.list_names(store.join(settings().store, ledger.SEGMENTS))
    assert run("2").outcome == "skipped"
    assert len(published()) == 3


def test_too_little_waits_and_is_not_lost(database):
    feedback(0, "right")
    ledger.seal_segments()
    skipped = run("1")
    assert skipped.outcome == "skipped" and "1 usable" in skipped.reason
    note = json.loads(store.read_bytes(store.join(settings().store, ledger.WAITING)))
    assert len(note["segments"]) == 1 and note["until"]
    for number in (1, 2):
        feedback(number, "right")
    ledger.seal_segments()
    assert run("2").metrics["used"] == 3
    assert run("3", "curate.max_wait_hours=0").outcome == "skipped"


def test_killed_between_claim_and_publication(database, monkeypatch):
    for number in range(4):
        feedback(number, "right")
    ledger.seal_segments()
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "finish", lambda _: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run("1")
    assert run("2").metrics["used"] == 4
    assert len(published()) == 4
