"""What there is to say about a data set version, gathered once for its index entry, its card and its report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from flywheel import datasets, stage
from flywheel.datasets import SPLITS, Profile, SourceCount
from flywheel.records import Example
from tasks.validation import Finding

PRIVATE = ("personal", "secret")  # what such a step rejected is not shown


@dataclass
class Facts:
    """One version, as its run's stages left it."""

    run: str
    model: str
    cleaning: dict[str, Any]
    funnel: list[dict[str, Any]]
    rejected: dict[str, list[dict[str, str]]]
    lengths: dict[str, Any]
    findings: list[Finding]
    profile: Profile
    before: Profile | None
    reference: str
    id: str = ""
    records: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    slices: Counter[str] = field(default_factory=Counter)
    sources: list[SourceCount] = field(default_factory=list)
    samples: list[Example] = field(default_factory=list)

    @property
    def collected(self) -> int:
        """What the sources gave, broken lines included."""
        return int(self.funnel[0]["in"])

    @property
    def lost(self) -> int:
        """What was rejected on the way to this version; what is too long for a model stays in it."""
        return sum(int(step["rejected"]) for step in self.funnel[:-1])

    @property
    def warnings(self) -> list[Finding]:
        """What the checks did not pass in silence."""
        return [finding for finding in self.findings if finding.outcome == "warn"]


def gather(ctx: stage.Context) -> Facts:
    """Read the outputs of ingest, clean and tokenize once, a line at a time."""
    before = datasets.reference_of(ctx.inputs)
    facts = Facts(
        run=ctx.run_dir.rsplit("/", 1)[-1], model=ctx.config.model.base, cleaning=ctx.upstream("clean").params, funnel=funnel(ctx), rejected={},
        lengths=json.loads(ctx.fetch("tokenize.lengths").read_bytes()),
        findings=[Finding.model_validate(f) for f in json.loads(ctx.fetch("tokenize.checks").read_bytes())],
        profile=Profile.model_validate_json(ctx.fetch("tokenize.profile").read_bytes()),
        before=Profile.model_validate_json(ctx.fetch(f"reference.{before}").read_bytes()) if before else None, reference=before,
    )  # fmt: skip
    shown = ctx.config.dataset.samples
    counts: Counter[tuple[str, str, str]] = Counter()

    def canonical() -> Iterator[bytes]:
        for split in SPLITS:
            with open(ctx.fetch(f"clean.{split}"), "rb") as file:
                for example in map(Example.model_validate_json, file):
                    facts.records[split] += 1
                    facts.kinds[example.kind] += 1
                    facts.slices[example.slice or example.source] += 1
                    counts[example.source, example.licence, example.consent] += 1
                    if split == "train" and len(facts.samples) < shown:
                        facts.samples.append(example)
                    yield datasets.canonical(example)

    facts.id = datasets.identity(canonical())
    facts.sources = [SourceCount(name=name, licence=licence, consent=consent, records=n) for (name, licence, consent), n in sorted(counts.items())]
    facts.rejected = rejected(ctx, shown)
    return facts


def funnel(ctx: stage.Context) -> list[dict[str, Any]]:
    """What came to each step, was changed there, rejected, and went on."""
    ingest, tokenize = ctx.upstream("ingest"), ctx.upstream("tokenize").metrics
    lines, records = ingest.outputs["quarantine"].rows or 0, ingest.outputs["records"].rows or 0
    steps: list[dict[str, Any]] = [{"step": "reading", "in": records + lines, "changed": 0, "rejected": lines, "out": records}]
    steps += json.loads(ctx.fetch("clean.steps").read_bytes())
    left, dropped, changed = int(steps[-1]["out"]), int(tokenize["dropped"] or 0), int(tokenize["cut"] or 0) + int(tokenize["shortened"] or 0)
    return [*steps, {"step": "token_limit", "in": left, "changed": changed, "rejected": dropped, "out": left - dropped}]


def rejected(ctx: stage.Context, shown: int) -> dict[str, list[dict[str, str]]]:
    """Some records of each step that rejected any: the reason and the text; for broken lines, which may hold anything, where they are."""
    found: dict[str, list[dict[str, str]]] = {}
    with open(ctx.fetch("ingest.quarantine"), "rb") as file:
        for line in map(json.loads, file):
            chosen = found.setdefault("reading", [])
            if len(chosen) < shown and line["reason"] not in {one["reason"] for one in chosen}:
                chosen.append({"reason": line["reason"], "text": f"{PurePosixPath(str(line['file'])).name}, line {line['line']}", "answer": ""})
    with open(ctx.fetch("clean.quarantine"), "rb") as file:
        for line in file:
            step = json.loads(line)
            chosen = found.setdefault(step["step"], [])
            if len(chosen) < shown:
                hidden = any(word in step["step"] for word in PRIVATE)
                record = step["record"]
                text, answer = ("(not shown)", "") if hidden else (record["instruction"], record["output"])
                chosen.append({"reason": step["reason"], "text": text, "answer": answer})
    return found
