"""Curation on a real ledger: where records go, exactly once, and what waits."""

import csv
import json
import logging
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from flywheel import config, ledger, stage, store
from flywheel.ledger import review, schema
from flywheel.ledger.review import ReviewItem
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


def published(kind="supervised"):
    lines = [line for a in ingest.batches("").values() for line in a.fetch(settings().home / "cache").read_bytes().splitlines()]
    return [example for example in map(Example.model_validate_json, lines) if example.kind == kind]


def rows(done, name):
    return [json.loads(line) for line in done.outputs[name].fetch(settings().home / "cache").read_bytes().splitlines()]


def reasons(done):
    with open(done.outputs["records"].fetch(settings().home / "cache"), newline="") as file:
        return {row["id"]: (row["route"], row["rule"], row["why"]) for row in csv.DictReader(file)}


def test_every_record_ends_in_one_place_and_the_next_turn_reads_what_was_learned(database):
    first, *others = (feedback(number, f"right {number}") for number in range(3))
    secret, thumb, better = feedback(3, "secret", consent=False), feedback(4), feedback(0, "better 0")
    ledger.seal_segments()
    done = run("1")
    assert {name: done.metrics[name] for name in ("records", "used", "supervised", "thumb", "dropped", "examples")} == {
        "records": 6, "used": 4, "supervised": 3, "thumb": 1, "dropped": 2, "examples": 3 + 3 + 4,
    }  # fmt: skip
    why = reasons(done)
    assert why[secret] == ("dropped", "rights", "no consent to learn from it")
    assert why[first] == ("dropped", "corrections", "another correction of this question is surer, or as sure and later")
    assert {why[name][:2] for name in (*others, better)} == {("supervised", "corrections")} and why[thumb][:2] == ("thumb", "thumbs")
    assert sorted(e.output for e in published()) == ["better 0", "right 1", "right 2"]
    assert sorted((e.output, e.rejected) for e in published("preference")) == [("better 0", "wrong"), ("right 1", "wrong"), ("right 2", "wrong")]
    assert {(e.instruction, e.output, e.liked) for e in published("thumb")} == {(f"question {n}", "wrong", False) for n in (0, 1, 2, 4)}
    assert store.list_names(store.join(settings().store, ledger.CLAIMED)) == store.list_names(store.join(settings().store, ledger.SEGMENTS))
    page = done.outputs["report"].fetch(settings().home / "cache").read_text()
    assert "question 1" not in page and "no consent to learn from it" in page and "<svg" in page
    assert run("2").outcome == "skipped"
    assert len(published()) == 3


def test_the_forms_that_trainers_read_are_forgotten_with_the_examples(database, home):
    feedback(0, "my own words", user="Ada"), feedback(1, "right"), feedback(2, "right")
    ledger.seal_segments()
    done = run("1")
    asked = {n: {"role": "user", "content": f"question {n}"} for n in range(3)}
    pair = next(row for row in rows(done, "pairs") if row["prompt"] == [asked[0]])
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("my own words", "wrong")
    assert [row["prompt"] for row in rows(done, "thumbs") if row["label"] is False] == [[asked[n]] for n in range(3)]
    batch = json.loads(store.read_bytes(store.join(settings().store, ledger.BATCHES, "000001.json")))
    assert set(batch["copies"]) == {"pairs", "thumbs", "regressions"}
    ledger.withdraw(pair["feedback_ids"][0], "Ada")
    ledger.settle()
    after = json.loads(store.read_bytes(store.join(settings().store, ledger.BATCHES, "000001.json")))
    for before, now in zip((batch["examples"], *batch["copies"].values()), (after["examples"], *after["copies"].values()), strict=True):
        assert b"my own words" not in store.read_bytes(store.resolve(now["uri"])) and now["rows"] <= before["rows"]
    assert {e.instruction for kind in ("supervised", "preference", "thumb") for e in published(kind)} == {"question 1", "question 2"}


def test_what_reviewers_decide_comes_back_as_training_data_once(database):
    doubtful = [feedback(n, f"maybe {n}", user="Ada") for n in range(3)]
    with ledger.transaction() as db:
        review.offer(db, [ReviewItem(feedback_id=i, answer_id=ledger.find(i).answer_id, reason="in doubt") for i in doubtful])
        items = {item.feedback_id: item.id for item in review.waiting(db, 10)}
    ledger.seal_segments()
    assert run("1", "curate.rules=[{step: raters, accuracy: 0.51}, corrections, ask]").metrics["review"] == 3
    with ledger.transaction() as db:
        approved = review.decide(db, items[doubtful[0]], "Grace", "approve")
        review.decide(db, items[doubtful[1]], "Grace", "reject")
        edited = review.decide(db, items[doubtful[2]], "Grace", "edit", correction="surely 2")
    ledger.seal_segments()
    done = run("2", "curate.max_wait_hours=0")
    assert {(e.output, e.feedback_ids) for e in published()} == {("maybe 0", (approved, doubtful[0])), ("surely 2", (edited,))}
    assert done.metrics["dropped.corrections"] == 1
    ledger.withdraw(doubtful[0], "Ada")
    ledger.settle()
    assert [e.output for e in published()] == ["surely 2"]


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
    curated = curate.curate

    def slow(desk, rules):  # withdrawn while the batch is curated
        ledger.withdraw(late, "Ada")
        curated(desk, rules)

    monkeypatch.setattr(curate, "curate", slow)
    done = run("1")
    assert (done.metrics["used"], done.metrics["dropped"], done.metrics["records"]) == (4, 3, 7)
    assert sorted(why for route, _, why in reasons(done).values() if route == "dropped") == ["kept long enough", "withheld: taken back", "withheld: taken back"]
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
