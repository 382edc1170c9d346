"""Make the data set of this run a version: known by its content, tracked by DVC, with a card and a report.

    python -m tasks.dataset --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Outputs: `card` (Markdown), `report` (one HTML page) and `version` (JSON, the entry of the index `<store>/datasets`); metric: `version`.
Runs beside train. The entry is written last: a version that is seen is whole.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from flywheel import datasets, stage, store
from flywheel.datasets import SPLITS, Version
from flywheel.manifest import Artifact
from tasks import data_card, data_facts, data_report, tracking


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """What tokenize compared this data set with."""
    found = ctx.upstream("tokenize").inputs
    before = datasets.reference_of(found)
    return {f"reference.{before}": found[f"reference.{before}"]} if before else {}


def files(ctx: stage.Context) -> dict[str, dict[str, Path]]:
    """What is tracked: what was collected, what is clean, what people curated."""
    batches = {name: a for name, a in ctx.upstream("ingest").inputs.items() if name.startswith("batch.")}
    return {
        "raw": {"records.jsonl": ctx.fetch("ingest.records"), "quarantine.jsonl": ctx.fetch("ingest.quarantine")},
        "clean": {f"{split}.jsonl": ctx.fetch(f"clean.{split}") for split in SPLITS},
        "curated": {f"{name.removeprefix('batch.')}.jsonl": artifact.fetch(ctx.cache) for name, artifact in batches.items()},
    }


def run(ctx: stage.Context) -> None:
    """Gather, describe, track, and publish what is new."""
    conf = ctx.config
    facts = data_facts.gather(ctx)
    ctx.path("README.md").write_text(data_card.write(facts))
    ctx.path("report.html").write_text(data_report.page(facts))
    card, report = ctx.output("card", ctx.path("README.md")), ctx.output("report", ctx.path("report.html"))
    known = datasets.read(facts.id)
    version = Version(
        id=facts.id, created=datetime.now(UTC).isoformat(timespec="seconds"), until=conf.ingest.interval_end, run_dir=store.relative(ctx.run_dir),
        records=dict(facts.records), kinds=dict(facts.kinds), slices=dict(facts.slices.most_common()), sources=facts.sources, raw=ctx.inputs["ingest.records"],
        content={split: ctx.inputs[f"clean.{split}"] for split in SPLITS}, profile=ctx.inputs["tokenize.profile"], card=card, report=report,
        reference=known.reference if known else facts.reference,
    )  # fmt: skip
    if known and all(store.exists(a.location) for a in (*known.content.values(), known.raw, known.profile, known.card, known.report)):
        version = known
        ctx.say(f"the same data as before: version {version.id[:12]}, of {version.run_dir}")
    else:
        version = version.model_copy(update={"tracked": tracking.track(version.id, files(ctx), conf.dataset.remote)})
        ctx.say(f"data set version {version.id[:12]}: {sum(facts.records.values())} records of {len(facts.sources)} sources")
    ctx.path("version.json").write_text(version.model_dump_json(indent=1))
    ctx.output("version", ctx.path("version.json"))
    if version is not known:
        datasets.write(version)
    ctx.metrics |= {"version": version.id, "records": sum(facts.records.values()), "rejected": facts.lost, "warnings": len(facts.warnings)}


STAGE = stage.Stage("dataset", run, needs=("ingest", "clean", "tokenize"), extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
