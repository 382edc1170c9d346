"""Mend and reject: every step of `clean.steps` in its order, counted; what it rejects is in quarantine with step and reason.

    python -m tasks.clean --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Outputs: `train`, `heldout`, `reserve` (JSONL of Example, sorted by id), `quarantine` (JSONL of id, step, reason, record) and `steps`
(JSON: what went in, was changed, was rejected and came out, step by step). In = out + rejected, at every step.
The steps of one record are in `tasks.cleaning`; where it runs is `clean.engine`, and makes no difference to a byte.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from itertools import groupby
from typing import TYPE_CHECKING, Any

from flywheel import manifest, stage, store
from flywheel.config import Clean
from flywheel.config.cleaning import Conflicts, Decontamination, ExactDuplicates, NearDuplicates
from flywheel.config.steps import Step
from flywheel.errors import ContractError, DataError
from flywheel.manifest import Artifact
from tasks import overlap, suites
from tasks.cleaning import RECORD_STEPS, decontamination, duplicates
from tasks.cleaning.frame import Frame, fault, start

if TYPE_CHECKING:
    import daft

SET_STEPS: dict[type[Step], Callable[[Frame, Any], daft.DataFrame]] = {
    ExactDuplicates: duplicates.exact,
    NearDuplicates: duplicates.near,
    Conflicts: duplicates.conflicts,
}
SPLITS = ("train", "heldout", "reserve")


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """The files that steps read, and every set that nothing may be learned from: the ledger's and the config's suites."""
    found = {f"file.{path}": _described(path, step) for step in ctx.config.clean.steps for path in step.files}
    if any(isinstance(step, Decontamination) for step in ctx.config.clean.steps):
        found |= {f"judged.{name}": artifact for name, artifact in overlap.ledger().items()}
        for suite in ctx.config.evaluate.suites:
            if suite.role in overlap.JUDGED:
                found[f"suite.{suite.name}"] = manifest.of_text(suites.locate(suite.path), suites.to_jsonl(suites.read(suite)))
    return found


def _described(path: str, step: Step) -> Artifact:
    uri = suites.locate(path)
    try:
        return manifest.describe(store.local_path(uri), path) if store.is_local(uri) else manifest.of_text(uri, store.read_bytes(uri).hex())
    except FileNotFoundError as error:
        raise ContractError("there is no such file or folder", where=f"clean.steps: {step.step}: {path}", mend="Mend the path.") from error


def judged_on(ctx: stage.Context) -> list[overlap.Text]:
    """The ledger's and the config's evaluation examples."""
    sets = {name.removeprefix("judged."): suites.from_jsonl(ctx.fetch(name)) for name in ctx.inputs if name.startswith("judged.")}
    named = {suite.name: suites.read(suite) for suite in ctx.config.evaluate.suites if f"suite.{suite.name}" in ctx.inputs}
    texts = [overlap.text_of(item, name.rsplit("-", 1)[0]) for name, items in sets.items() for item in items]
    return texts + [overlap.text_of(item, name) for name, items in named.items() for item in items]


def run(ctx: stage.Context) -> None:
    """Apply every step, count, and write."""
    conf, records = ctx.config.clean, ctx.inputs["ingest.records"]
    rows = records.rows or 0
    start(conf.engine)
    # A cluster's workers reach the store, not this machine's folders.
    source = ctx.fetch("ingest.records")
    remote = conf.engine.runner == "ray" and not store.is_local(ctx.run_dir)
    scratch = store.join(ctx.stage_uri, f"attempt-{ctx.attempt}", "scratch") if remote else str(ctx.path("scratch"))
    frame = Frame(records.location if remote else str(source), scratch, rows, conf.engine)
    ctx.say(f"cleaning {rows} records")
    try:
        counts = apply(ctx, frame, conf.steps, judged_on(ctx))
        write(ctx, frame, counts)
    finally:
        frame.close()


def apply(ctx: stage.Context, frame: Frame, steps: tuple[Step, ...], texts: list[overlap.Text]) -> list[dict[str, Any]]:
    """Every step in its order, those of one record in runs of one pass; the counts of each."""
    counts: list[dict[str, Any]] = []
    if not steps or type(steps[0]) not in RECORD_STEPS:
        frame.judge(())
    for each, group in groupby(steps, key=lambda step: type(step) in RECORD_STEPS):
        some = tuple(group)
        for run in [some] if each else [(step,) for step in some]:
            began = time.monotonic()
            if each:
                new = frame.judge(run)
            elif isinstance(run[0], Decontamination):
                new = [frame.reject(run[0].step, decontamination.decontaminate(frame, run[0], texts))]
            else:
                new = [frame.reject(run[0].step, SET_STEPS[type(run[0])](frame, run[0]))]
            for count in new:
                ctx.say(f"  {count['step']}: {count['in']} in, {count['changed']} changed, {count['rejected']} rejected")
            ctx.say(f"  … {time.monotonic() - began:.1f} s")
            counts += new
    for step in steps:
        if isinstance(step, Decontamination) and (still := decontamination.overlapping(frame, step, texts)):
            raise decontamination.unresolved(frame, still, "A later step brought them about: make decontamination the last one.")
    return counts


def write(ctx: stage.Context, frame: Frame, counts: list[dict[str, Any]]) -> None:
    """The outputs, if enough is left."""
    conf = ctx.config.clean
    rejected = {count["step"]: count["rejected"] for count in counts}
    total, written = sum(rejected.values()), dict.fromkeys((*SPLITS, "quarantine"), 0)
    files = {name: open(ctx.path(f"{name}.jsonl"), "w") for name in written}  # noqa: SIM115
    try:
        for part in frame.ordered():
            lines: dict[str, list[str]] = {name: [] for name in written}
            for id, split, record, step, reason in zip(*(part[name].to_pylist() for name in ("id", "split", "record", "step", "reason")), strict=True):
                if step:
                    lines["quarantine"].append(f'{{"id": "{id}", "step": "{step}", "reason": {json.dumps(reason)}, "record": {record}}}\n')
                else:
                    lines[split].append(f"{record}\n")
            for name, some in lines.items():
                files[name].writelines(some)
                written[name] += len(some)
    finally:
        for file in files.values():
            file.close()
    if sum(written.values()) != frame.rows or written["quarantine"] != total:
        raise fault("writing", frame.rows, total, sum(written[split] for split in SPLITS))
    causes = ", ".join(f"{n} {step.replace('_', ' ')}" for step, n in sorted(rejected.items(), key=lambda one: -one[1]) if n)
    ctx.say(f"kept {frame.rows - total}, rejected {total}: {causes or 'none'}")
    quarantine = ctx.output("quarantine", ctx.path("quarantine.jsonl"), total)
    _enough(conf, frame.rows, total, written["train"], quarantine.location)
    for split in SPLITS:
        ctx.output(split, ctx.path(f"{split}.jsonl"), written[split])
    ctx.path("steps.json").write_text(json.dumps(counts, indent=1) + "\n")
    ctx.output("steps", ctx.path("steps.json"), len(counts))
    ctx.metrics |= {
        **{split: written[split] for split in SPLITS},
        "rejected": total,
        **{f"rejected.{step}": n for step, n in rejected.items() if n},
        **frame.notes,
    }


def _enough(conf: Clean, read: int, rejected: int, train: int, quarantine: str) -> None:
    if rejected > conf.max_rejected * read:
        raise DataError(
            f"{rejected} of {read} records were rejected, more than clean.max_rejected allows", where=quarantine, mend="See the reasons there; mend the source."
        )
    if train < conf.min_records:
        raise DataError(
            f"{train} clean training records, fewer than clean.min_records ({conf.min_records})", where=quarantine, mend="Add records, or lower the limit."
        )


STAGE = stage.Stage("clean", run, needs=("ingest",), extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
