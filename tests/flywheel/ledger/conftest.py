"""Giving feedback, and reading what was sealed and published."""

from __future__ import annotations

import json

from flywheel import ledger, manifest, store
from flywheel.records import Example, FeedbackIn, example_id
from flywheel.settings import settings


def ask(number=0, user="anonymous", version="1"):
    return ledger.add_answer(f"question {number}", "", f"answer {number}", version, user)


def given(number, answer=None, **more):
    return FeedbackIn(**{"answer_id": answer or ask(number), "idempotency_key": f"key-{number:06d}", "thumb": "down", **more})


def give(number, answer=None, **more):
    """Store a thumb down, or what `more` says; its id."""
    return ledger.add_feedback(given(number, answer, **more))[0]


def sealed_lines():
    folder = store.join(settings().store, ledger.SEGMENTS)
    return [json.loads(line) for name in store.list_names(folder) for line in store.read_bytes(store.join(folder, name)).splitlines()]


def example(record):
    """The training record of a correction, as curation makes it."""
    return Example(
        id=example_id(record.prompt, record.input, record.correction), instruction=record.prompt, output=record.correction, group=record.prompt,
        slice="feedback", source="feedback", licence="given by the user", consent="given with the feedback", feedback_ids=(record.id,),
    )  # fmt: skip


def write_examples(path, examples):
    """A file of records below the store, and its manifest entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(e.model_dump_json() + "\n" for e in examples))
    return manifest.describe(path, store.relative(str(path)), len(examples))


def curate(home, name="1"):
    """Claim what waits and publish its corrections; the batch."""
    ledger.seal_segments()
    batch = ledger.claim()
    with ledger.publishing(batch) as withheld:
        examples = [example(r) for r in batch.records if r.correction and r.id not in withheld]
        ledger.publish(batch, write_examples(home / "store" / "runs" / "feedback" / name / "examples.jsonl", examples))
    return batch


def published():
    """Every training record that `ingest` would read from batches, and the ids they rest on."""
    folder = store.join(settings().store, ledger.BATCHES)
    batches = [json.loads(store.read_bytes(store.join(folder, name))) for name in store.list_names(folder)]
    artifacts = [manifest.Artifact.model_validate(batch["examples"]) for batch in batches]
    return [Example.model_validate_json(line) for a in artifacts for line in a.fetch(settings().home / "cache").read_bytes().splitlines()]
