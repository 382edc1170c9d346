"""Collect records from every source and the curated feedback, and split them by group.

    python -m tasks.ingest --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Outputs: `records` (JSONL of Example, sorted by id: the same records give the same bytes, in whatever order they came) and
`quarantine` (JSONL of file, line, reason, text). Nothing is held in memory but what an external sort needs.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import IO

from flywheel import stage, store
from flywheel.config import Ingest, Source
from flywheel.errors import DataError
from flywheel.ledger import BATCHES
from flywheel.manifest import Artifact
from flywheel.records import Example, Split, example_id, question
from flywheel.settings import settings
from tasks import sources
from tasks.sources.sorting import Sorter

ID_CHARS = 32


def batches(until: str) -> dict[str, Artifact]:
    """The examples of every curated batch claimed by a moment (ISO; empty: all), by batch id."""
    folder = store.join(settings().store, BATCHES)
    found = {}
    for name in store.list_names(folder):
        batch = json.loads(store.read_bytes(store.join(folder, name)))
        if not until or datetime.fromisoformat(batch["claimed"]) <= sources.moment(until):
            found[batch["id"]] = Artifact.model_validate(batch["examples"])
    return found


def end_of(conf: Ingest) -> datetime | None:
    """The moment after which a record is left for a later run."""
    return sources.moment(conf.interval_end) if conf.interval_end else None


def identities(conf: Ingest) -> dict[str, Artifact]:
    """Each source, known by its content."""
    return {f"source.{i}": Artifact(uri=s.label, sha256=sources.reader(s, end_of(conf)).identity(), bytes=0) for i, s in enumerate(conf.sources)}


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """Sources and batches are inputs: a changed file or a new batch is new work."""
    conf, found = ctx.config.ingest, identities(ctx.config.ingest)
    if conf.feedback:
        found.update({f"batch.{name}": artifact for name, artifact in batches(conf.interval_end).items()})
    return found


def split_of(group: str, conf: Ingest, seed: int) -> Split:
    """Which side a group falls on: a pure function of its name, so it never changes sides."""
    point = int.from_bytes(hashlib.sha256(f"{seed}\0{group}".encode()).digest()[:8], "big") / 2**64
    if point < conf.heldout:
        return "heldout"
    return "reserve" if point < conf.heldout + conf.reserve else "train"


def example(row: sources.Row, source: Source, conf: Ingest, seed: int) -> Example:
    """A row as a record of the flywheel. A conversation goes where its opening question goes, unless its owner named a group."""
    opening = next((turn.content for turn in row.history if turn.role == "user"), None)
    group = row.group or (question(row.instruction, row.input) if opening is None else question(opening, ""))
    return Example(
        id=example_id(row.instruction, row.input, row.output, history=row.history, rejected=row.rejected, liked=row.liked),
        history=row.history, instruction=row.instruction, input=row.input, output=row.output, rejected=row.rejected, liked=row.liked,
        group=group, split=split_of(group, conf, seed), slice=row.slice, source=source.name or source.kind, licence=source.licence, consent=source.consent,
    )  # fmt: skip


def run(ctx: stage.Context) -> None:
    """Read, reject what is no record, split, sort, and write."""
    conf = ctx.config.ingest
    records, counts = Sorter(ctx.path(".")), Counter[str]()
    with open(ctx.path("quarantine.jsonl"), "wb") as quarantine:
        for source in sorted(conf.sources, key=lambda s: s.model_dump_json()):  # so that their order in the config changes nothing
            _collect(ctx, source, records, quarantine, counts)
    curated = [name for name in ctx.inputs if name.startswith("batch.")]
    for name in curated:
        with open(ctx.fetch(name), "rb") as batch:
            for line in batch:
                records.add(_sortable(Example.model_validate_json(line)))
                counts["read"] += 1
    if not counts["read"]:
        raise DataError(
            f"no usable record in any source ({counts['rejected']} lines rejected)", where="ingest.sources", mend="See quarantine.jsonl beside the outputs."
        )
    splits = Counter[str]()
    with open(ctx.path("records.jsonl"), "wb") as file:
        for split, line, repeated in _limited(records, conf.limit):
            file.write(line)
            splits[split] += 1
            counts["duplicates"] += repeated
    written = sum(splits.values())
    ctx.say(f"{written} records ({dict(splits)}), {len(curated)} batches of feedback, {counts['rejected']} lines rejected, {counts['later']} left for later")
    ctx.output("records", ctx.path("records.jsonl"), written)
    ctx.output("quarantine", ctx.path("quarantine.jsonl"), counts["rejected"])
    ctx.metrics |= {"records": written, **{n: counts[n] for n in ("read", "rejected", "later", "duplicates")}, "batches": len(curated), **splits}


def _collect(ctx: stage.Context, source: Source, records: Sorter, quarantine: IO[bytes], counts: Counter[str]) -> None:
    """One source's records into the sorter, and what was wrong with the others into quarantine."""
    conf, seed = ctx.config.ingest, ctx.config.seed
    ctx.say(f"reading {source.label} ({source.licence}; {source.consent})")
    reader = sources.reader(source, end_of(conf), ctx.path("."))
    shown = 0
    for found in reader.read():
        if isinstance(found, sources.Rejected):
            line = {"file": found.source, "line": found.line, "reason": found.reason, "text": found.text}
            quarantine.write(json.dumps(line).encode() + b"\n")
            counts["rejected"] += 1
            shown += 1
            if shown <= 3:
                ctx.say(f"  rejected {found.source}:{found.line}: {found.reason}")
        else:
            records.add(_sortable(example(found[2], source, conf, seed)))
            counts["read"] += 1
            ctx.progress(f"  {counts['read']} records so far")
    counts["later"] += reader.later


def _sortable(example: Example) -> bytes:
    """A line that sorts by id, then by split, then by all else."""
    return f"{example.id}{example.split}\t{example.model_dump_json()}\n".encode()


def _limited(records: Sorter, limit: int | None) -> Iterator[tuple[str, bytes, bool]]:
    """(split, JSON line, is it the same text as the line before) of at most `limit` texts of each split, those with the smallest ids."""
    texts, last = Counter[str](), b""
    for key, line in (line.split(b"\t", 1) for line in records):
        split, repeated = key[ID_CHARS:].decode(), key == last
        texts[split] += not repeated
        last = key
        if limit is None or texts[split] <= limit:
            yield split, line, repeated


STAGE = stage.Stage("ingest", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
