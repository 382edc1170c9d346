"""Turn feedback into training records: claim what waits as one batch, keep consented corrections, publish the batch.

    python -m tasks.curate --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/curate

Skipped while there is too little for a turn. A batch that a killed curation left unfinished is taken up first, so that no
record is lost or used twice. Output: `examples` (JSONL of Example).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from flywheel import ledger, stage, store
from flywheel.errors import ContractError
from flywheel.ledger import BATCHES, CLAIMED, SEGMENTS, WAITING
from flywheel.lineage import example_of
from flywheel.manifest import Artifact
from flywheel.records import Example, Feedback, question
from flywheel.settings import settings


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """Each run looks anew: its input is the moment's ledger, which no other run shares."""
    return {"ledger": Artifact(uri=ctx.run_dir, sha256=store.sha256_text(ctx.run_dir), bytes=0)}


def usable(records: list[Feedback]) -> tuple[list[Example], dict[str, int]]:
    """The consented corrections, the latest of each question, and a count of where every record went."""
    latest: dict[str, Example] = {}
    counts = {"used": 0, "superseded": 0, "no_correction": 0, "no_consent": 0}
    for record in sorted(records, key=lambda r: r.timestamp):
        if not record.correction or not record.correction.strip() or not record.prompt.strip():
            counts["no_correction"] += 1
        elif not record.consent:
            counts["no_consent"] += 1
        else:
            group = question(record.prompt, record.input)
            counts["superseded"] += group in latest
            latest[group] = Example(
                id=example_of(record), instruction=record.prompt.strip(), input=record.input.strip(), output=record.correction.strip(), group=group,
                slice="feedback", source="feedback", licence="given by the user", consent="given with the feedback", feedback_ids=(record.id,),
            )  # fmt: skip
    counts["used"] = len(latest)
    return list(latest.values()), counts


def run(ctx: stage.Context) -> None:
    """Wait for more, or claim and publish."""
    conf = ctx.config.curate
    seen = store.list_names(store.join(settings().store, SEGMENTS))
    waiting = ledger.waiting()
    if ledger.unfinished_batch() is None:
        count = len(usable(waiting)[0])
        oldest = min((r.timestamp for r in waiting), default=None)
        until = oldest + timedelta(hours=conf.max_wait_hours) if oldest else None
        if count == 0 or (count < conf.min_batch and until and datetime.now(UTC) < until):
            note = {"segments": seen, "until": until.isoformat() if until and count else None}
            store.write_bytes(store.join(settings().store, WAITING), json.dumps(note).encode())
            return ctx.skip(f"{count} usable of {len(waiting)} waiting records; a batch needs {conf.min_batch}, or {conf.max_wait_hours:g} hours of waiting")
    batch = ledger.claim()
    examples, counts = usable(batch.records)
    path = ctx.path("examples.jsonl")
    path.write_text("".join(e.model_dump_json() + "\n" for e in examples))
    artifact = ctx.output("examples", path, len(examples))
    name = f"{batch.id:06d}"
    published = {
        "id": name,
        "claimed": batch.claimed.isoformat(),
        "examples": artifact.model_dump(),
        "feedback": [r.id for r in batch.records],
        "segments": batch.segments,
    }
    store.write_bytes(store.join(settings().store, BATCHES, f"{name}.json"), json.dumps(published).encode())
    for segment in batch.segments:
        store.write_bytes(store.join(settings().store, CLAIMED, segment), b"")
    ledger.finish(batch)
    ctx.say(f"batch {name}: {len(batch.records)} records, " + ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items()))
    ctx.metrics |= {"batch": name, "records": len(batch.records), **counts}
    if sum(counts.values()) != len(batch.records):
        raise ContractError("a record vanished without a count", where="curate", mend="This is a fault of the program: report it.")
    return None


STAGE = stage.Stage("curate", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
