"""Records to clean, and `clean` run on them as a stage of its own."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

from flywheel import config, manifest, stage, store
from flywheel.manifest import Manifest
from flywheel.records import Example, example_id
from flywheel.settings import settings
from tasks import clean


def example(instruction, output, split="train", *, feedback=(), input="", rejected="", liked=None, history=(), source="t"):
    return Example(
        id=example_id(instruction, input, output, history=history, rejected=rejected, liked=liked), history=history, instruction=instruction, input=input,
        output=output, rejected=rejected, liked=liked, group=instruction, split=split, source=source, licence="x", consent="y", feedback_ids=feedback,
    )  # fmt: skip


def lines(examples) -> str:
    return "".join(e.model_dump_json() + "\n" for e in examples)


def ingested(text: str, name: str = "1") -> str:
    """A run whose ingest left this text; its folder comes back."""
    run = f"{settings().store}/runs/t/{name}"
    path = Path(run, "ingest", "attempt-1", "records.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    records = manifest.describe(path, store.relative(str(path)), text.count("\n"))
    now = datetime.now(UTC)
    manifest.write(Manifest(stage="ingest", run_dir=store.relative(run), attempt=1, cache_key="", outputs={"records": records}, started=now, ended=now), run)
    return run


def configured(clean: dict, **sections) -> config.Config:
    source = {"kind": "docs", "licence": "x", "consent": "y"}
    return config.Config.model_validate({"ingest": {"sources": [source]}, "clean": {"min_records": 1, "max_rejected": 1, **clean}, **sections})


class Cleaned:
    """What a run of clean left."""

    def __init__(self, done: Manifest) -> None:
        self.manifest = done
        self.bytes = {name: Path(artifact.location).read_bytes() for name, artifact in done.outputs.items()}
        self.train, self.heldout, self.reserve = (
            [Example.model_validate_json(line) for line in self.bytes[split].split(b"\n") if line] for split in ("train", "heldout", "reserve")
        )
        self.quarantine = [json.loads(line) for line in self.bytes["quarantine"].split(b"\n") if line]
        self.steps = json.loads(self.bytes["steps"])

    @property
    def kept(self) -> list[Example]:
        return [*self.train, *self.heldout, *self.reserve]


def cleaned(examples, steps, name: str = "1", **settings) -> Cleaned:
    """Clean these records with these steps."""
    return Cleaned(stage.execute(clean.STAGE, configured({"steps": steps}, **settings), ingested(lines(examples), name)))
