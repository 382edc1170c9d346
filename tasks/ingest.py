"""Collect records from every source and the curated feedback, and split them by group.

    python -m tasks.ingest --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Outputs: `records` (JSONL of Example) and `quarantine` (JSONL of file, line, reason, text).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from datetime import UTC, datetime

from flywheel import stage, store
from flywheel.config import Ingest
from flywheel.errors import ContractError, DataError
from flywheel.ledger import BATCHES
from flywheel.manifest import Artifact
from flywheel.records import Example, Split, example_id, question
from flywheel.settings import settings
from tasks import sources


def batches(until: str) -> dict[str, Artifact]:
    """The examples of every curated batch claimed by a moment (ISO; empty: all), by batch id."""
    folder = store.join(settings().store, BATCHES)
    found = {}
    for name in store.list_names(folder):
        batch = json.loads(store.read_bytes(store.join(folder, name)))
        if not until or datetime.fromisoformat(batch["claimed"]) <= moment(until):
            found[batch["id"]] = Artifact.model_validate(batch["examples"])
    return found


def moment(text: str) -> datetime:
    """An ISO time with its zone; UTC when it names none."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise ContractError(f"{text} is not an ISO time", where="ingest.interval_end", mend="Write it as 2026-01-31T02:00:00+00:00.") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """Sources and batches are inputs: a changed file or a new batch is new work."""
    conf = ctx.config.ingest
    found = {f"source.{i}": Artifact(uri=s.path or s.kind, sha256=sources.identity(s), bytes=0) for i, s in enumerate(conf.sources)}
    if conf.feedback:
        found.update({f"batch.{name}": artifact for name, artifact in batches(conf.interval_end).items()})
    return found


def split_of(group: str, conf: Ingest, seed: int) -> Split:
    """Which side a group falls on: a pure function of its name, so it never changes sides."""
    point = int.from_bytes(hashlib.sha256(f"{seed}\0{group}".encode()).digest()[:8], "big") / 2**64
    if point < conf.heldout:
        return "heldout"
    return "reserve" if point < conf.heldout + conf.reserve else "train"


def run(ctx: stage.Context) -> None:
    """Read, reject what is no record, split, and write."""
    conf, seed = ctx.config.ingest, ctx.config.seed
    examples: list[Example] = []
    rejected: list[sources.Rejected] = []
    for source in conf.sources:
        ctx.say(f"reading {source.name or source.path or source.kind} ({source.licence}; {source.consent})")
        for found in sources.read(source):
            if isinstance(found, sources.Rejected):
                rejected.append(found)
                continue
            uri, line, row = found
            if not row.instruction.strip() or not row.output.strip():
                rejected.append(sources.Rejected(uri, line, "instruction or output is empty", row.model_dump_json()[:2000]))
                continue
            group = row.group or question(row.instruction, row.input)
            examples.append(Example(
                id=example_id(row.instruction, row.input, row.output), instruction=row.instruction, input=row.input, output=row.output,
                group=group, split=split_of(group, conf, seed), slice=row.slice, source=source.name or source.kind, licence=source.licence, consent=source.consent,
            ))  # fmt: skip
            ctx.progress(f"  {len(examples)} records so far")
    curated = [name for name in ctx.inputs if name.startswith("batch.")]
    for name in curated:
        examples.extend(Example.model_validate_json(line) for line in ctx.fetch(name).read_bytes().splitlines())
    if not examples:
        raise DataError(
            f"no usable record in any source ({len(rejected)} lines rejected)", where="ingest.sources", mend="See quarantine.jsonl beside the outputs."
        )
    if conf.limit:
        examples = _limited(examples, conf.limit)
    with open(ctx.path("records.jsonl"), "w") as file:
        file.writelines(e.model_dump_json() + "\n" for e in examples)
    with open(ctx.path("quarantine.jsonl"), "w") as file:
        file.writelines(json.dumps({"file": r.source, "line": r.line, "reason": r.reason, "text": r.text}) + "\n" for r in rejected)
    for bad in rejected[:3]:
        ctx.say(f"  rejected {bad.source}:{bad.line}: {bad.reason}")
    counts = Counter(e.split for e in examples)
    ctx.say(f"{len(examples)} records ({dict(counts)}), {len(curated)} batches of feedback, {len(rejected)} lines rejected")
    ctx.output("records", ctx.path("records.jsonl"), len(examples))
    ctx.output("quarantine", ctx.path("quarantine.jsonl"), len(rejected))
    ctx.metrics |= {"records": len(examples), "rejected": len(rejected), "batches": len(curated), **{str(split): n for split, n in counts.items()}}


def _limited(examples: list[Example], limit: int) -> list[Example]:
    """At most `limit` of each split, those with the smallest ids, in their order."""
    kept: set[str] = set()
    for split in ("train", "heldout", "reserve"):
        kept.update(sorted({e.id for e in examples if e.split == split})[:limit])
    return [e for e in examples if e.id in kept]


STAGE = stage.Stage("ingest", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
