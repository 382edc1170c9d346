"""Curation on a real ledger: consent, exactly once, and what waits."""

import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from flywheel import config, ledger, stage, store
from flywheel.ledger import schema
from flywheel.records import Example, FeedbackIn
from flywheel.settings import REPOSITORY, settings
from tasks import curate, ingest


def feedback(number, correction="", consent=True, **more):
    answer = ledger.add_answer(f"question {number}", "", "wrong", "1")
    key = f"key-{number:06d}-{correction}"
    return ledger.add_feedback(FeedbackIn(answer_id=answer, idempotency_key=key, thumb="down", correction=correction or None, consent=consent, **more))[0]


def run(name, *assignments):
    conf = config.load(str(REPOSITORY / "config" / "flywheel.yaml"), ["curate.min_batch=3", "curate.debounce_seconds=0", *assignments])
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
        patch.setattr(ledger, "publish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run("1")
    assert run("2").metrics["used"] == 4
    assert len(published()) == 4


def test_what_is_withdrawn_or_kept_too_long_is_counted_and_not_used(database, monkeypatch):
    for number in range(4):
        feedback(number, "right")
    ledger.withdraw(feedback(4, "withdrawn", user="Ada"), "Ada")
    old, late = feedback(5, "expired"), feedback(6, "late", user="Ada")
    with ledger.transaction() as db:
        db.execute(sa.update(schema.feedback).where(schema.feedback.c.id == old).values(keep_until=datetime.now(UTC) - timedelta(days=1)))
    ledger.seal_segments()
    usable = curate.usable

    def slow(records):
        if len(records) == 7 and ledger.unfinished_batch():  # withdrawn while the batch is curated
            ledger.withdraw(late, "Ada")
        return usable(records)

    monkeypatch.setattr(curate, "usable", slow)
    done = run("1").metrics
    assert (done["used"], done["withheld"], done["expired"], done["records"]) == (4, 2, 1, 7)
    assert {e.output for e in published()} == {"right"}


def test_people_who_still_write_are_waited_for_but_not_for_ever(database):
    for number in range(5):
        feedback(number, "right")
    ledger.seal_segments()
    skipped = run("1", "curate.debounce_seconds=60")
    assert skipped.outcome == "skipped" and "still writing" in skipped.reason
    until = datetime.fromisoformat(json.loads(store.read_bytes(store.join(settings().store, ledger.WAITING)))["until"])
    assert timedelta(seconds=30) < until - datetime.now(UTC) <= timedelta(seconds=60)
    assert run("2", "curate.debounce_seconds=60", "curate.max_wait_hours=0").metrics["used"] == 5


def test_a_file_that_is_no_segment_is_said_and_waited_on_no_more(database, home, caplog):
    feedback(0, "right")
    ledger.seal_segments()
    folder = home / "store" / ledger.SEGMENTS
    (real,) = folder.iterdir()
    (folder / "copy.jsonl").write_bytes(real.read_bytes())
    real.write_bytes(b"{")
    with caplog.at_level(logging.INFO, "flywheel"):
        run("1")
    assert "copy.jsonl is not a segment" in caplog.text and "written again" in caplog.text
    assert json.loads(real.read_text())["prompt"] == "question 0"
    assert "copy.jsonl" in json.loads(store.read_bytes(store.join(settings().store, ledger.WAITING)))["segments"]
