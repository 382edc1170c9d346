"""Turn feedback into training records: claim what waits as one batch, keep consented corrections, publish the batch.

    python -m tasks.curate --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/curate

Skipped while people still write, or while there is too little for a turn. A batch that a killed curation left unfinished is taken
up first, so that no record is lost or used twice. Output: `examples` (JSONL of Example).
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from flywheel import ledger, stage, store
from flywheel.config import Curate
from flywheel.errors import ContractError
from flywheel.ledger import CLAIMED, SEGMENTS, WAITING
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
    counts = {"used": 0, "superseded": 0, "withheld": 0, "expired": 0, "no_correction": 0, "no_consent": 0}
    now = datetime.now(UTC)
    for record in sorted(records, key=lambda r: r.timestamp):
        if record.withheld:
            counts["withheld"] += 1
        elif record.keep_until <= now:
            counts["expired"] += 1
        elif not record.correction or not record.correction.strip() or not record.prompt.strip():
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


def not_yet(waiting: list[Feedback], conf: Curate, now: datetime) -> tuple[str, datetime | None]:
    """Why what waits is no batch yet, and when to look again though nothing new comes; no reason when it is one."""
    count = len(usable(waiting)[0])
    if count == 0:
        return f"{len(waiting)} waiting records, none of them usable", None
    due = min(r.timestamp for r in waiting) + timedelta(hours=conf.max_wait_hours)
    calm = max(r.timestamp for r in waiting) + timedelta(seconds=conf.debounce_seconds)
    if now >= due:
        return "", None
    if count < conf.min_batch:
        return f"{count} usable of {len(waiting)} waiting records; a batch needs {conf.min_batch}, or {conf.max_wait_hours:g} hours of waiting", due
    if now < calm:
        return f"{count} usable records, and people are still writing: a batch needs {conf.debounce_seconds:g} quiet seconds", min(calm, due)
    return "", None


def run(ctx: stage.Context) -> None:
    """Wait for more, or claim and publish."""
    seen = store.list_names(store.join(settings().store, SEGMENTS))
    claimed = set(store.list_names(store.join(settings().store, CLAIMED)))
    for sentence in ledger.check_segments(name for name in seen if name not in claimed):
        ctx.say(sentence)
    if ledger.unfinished_batch() is None:
        reason, until = not_yet(ledger.waiting(), ctx.config.curate, datetime.now(UTC))
        if reason:
            note = {"segments": seen, "until": until.isoformat() if until else None}
            store.write_bytes(store.join(settings().store, WAITING), json.dumps(note).encode())
            return ctx.skip(reason)
    batch = ledger.claim()
    examples, counts = usable(batch.records)
    with ledger.publishing(batch) as withheld:
        late = [e for e in examples if withheld & set(e.feedback_ids)]
        counts |= {"used": counts["used"] - len(late), "withheld": counts["withheld"] + len(late)}
        examples = [e for e in examples if e not in late]
        path = ctx.path("examples.jsonl")
        path.write_text("".join(e.model_dump_json() + "\n" for e in examples))
        ledger.publish(batch, ctx.output("examples", path, len(examples)))
    ctx.say(f"batch {batch.name}: {len(batch.records)} records, " + ", ".join(f"{n} {what.replace('_', ' ')}" for what, n in counts.items()))
    ctx.metrics |= {"batch": batch.name, "records": len(batch.records), **counts}
    if sum(counts.values()) != len(batch.records):
        raise ContractError("a record vanished without a count", where="curate", mend="This is a fault of the program: report it.")
    return None


STAGE = stage.Stage("curate", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
