"""Teach a LoRA adapter: by answers (sft), by pairs of answers (dpo) or by thumbs (kto), on a bf16 base or an NF4 one.

    python -m tasks.train --config config/train/lora.yaml --run-dir .flywheel/store/runs/hand/1

SIGTERM saves a checkpoint and exits 143; a retry goes on from it with the same batches. Outputs: `adapter` (with tokenizer, generation
config and `training.json`: all that is needed to repeat it), `losses` (JSONL of step, loss, gradient norm, rate, tokens), `curve` (PNG),
`ids` (every example learned so far, the parent's included), `probe` (losses that a server must agree with), `merged` and `gguf` on request. docs/training.md explains the settings.
"""

from __future__ import annotations

import importlib.metadata
import json
from pathlib import Path

from flywheel import base_model, registry, spend, stage, store
from flywheel.config import Train
from flywheel.errors import ContractError, DataError
from flywheel.manifest import Artifact
from tasks import worth
from tasks.training import base, batching, gguf_file, launch, loop, outputs, rows, watch
from tasks.training.machine import Machine

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """The base model, and the champion that training goes on from."""
    found = {"base": base_model.identity(ctx.config.model.base)}
    if ctx.config.train.start == "champion":
        parent = registry.parent_for(ctx.upstream("tokenize").outputs["train"].sha256)
        if parent:
            if parent.base != ctx.config.model.base:
                mend = "Set train.start to base to begin afresh."
                raise ContractError(f"the champion (version {parent.version}) is an adapter of {parent.base}", where="model.base", mend=mend)
            found |= {f"parent.{parent.version}": parent.adapter, "parent.ids": parent.trained_ids}
    return found


def parent_of(inputs: dict[str, Artifact]) -> int | None:
    """The version that training went on from, by its input's name."""
    return next((int(name.removeprefix("parent.")) for name in inputs if name.startswith("parent.") and name != "parent.ids"), None)


def source(ctx: stage.Context) -> Path:
    """The tokenized examples of this objective. Raises DataError when there are none."""
    name = rows.INPUT[ctx.config.train.objective]
    if f"tokenize.{name}" not in ctx.inputs:
        raise DataError(f"the data set has no {name}", where=f"train.objective {ctx.config.train.objective}", mend="Collect some, or set it to sft.")
    return ctx.fetch(f"tokenize.{name}")


def plan(ctx: stage.Context, conf: Train, chosen: list[rows.Row], parent: Path | None) -> loop.Job:
    """What is going to be trained. Raises ContractError when this machine or the base model cannot, before any weight is read."""
    here, model = Machine.here(), ctx.config.model
    if refusal := here.refusal(conf):
        setting, what, mend = refusal
        raise ContractError(what, where=f"train.{setting}", mend=mend)
    folder = base_model.local_folder(model.base, ctx.cache)
    base.check(folder, model.base, model.max_length, chosen)
    place = store.join(ctx.stage_uri, "checkpoints", ctx.cache_key[:12])
    return loop.Job(conf, ctx.config.seed, model.base, folder, parent, chosen, place, here.device(conf), here.precision(conf))


def teach(job: loop.Job, ctx: stage.Context, source: Path) -> loop.Outcome:
    """Train, in one process or several; the adapter is written below the attempt's folder. `source` has the job's rows."""
    nodes = Machine.here().nodes
    if job.conf.processes * nodes > 1:
        return launch.together(job, ctx, source, ctx.path("adapter"), nodes)
    before = spend.this_week()
    return loop.fit(job, ctx, lambda: before.plus(stage.cost(ctx)), ctx.path("adapter"))


def run(ctx: stage.Context) -> None:
    """Choose, look whether it can be done, train, save."""
    conf, seed, model = ctx.config.train, ctx.config.seed, ctx.config.model
    found = rows.read(source(ctx), conf.objective)
    parent = parent_of(ctx.inputs)
    learned = set(json.loads(ctx.fetch("parent.ids").read_bytes())) if parent else set()
    chosen = rows.choose(found, learned, conf, seed)
    new = sum(r.id not in learned for r in chosen)
    reason = worth.budget_spent(spend.this_week(), conf)
    if parent and not reason:
        fresh = [r.ids for r in found if r.id not in learned]
        reason = worth.too_little(fresh, [r.ids for r in found if r.id in learned], conf)
    if reason:
        return ctx.skip(reason)
    if len(chosen) < 2:
        raise DataError(f"{len(chosen)} examples teach nothing that holds", where="train", mend="Collect more, or raise train.max_examples.")
    adapter = registry.fetch(registry.get(parent), ctx.cache) if parent else None
    job = plan(ctx, conf, chosen, adapter)
    folder = job.base
    if "gguf" in conf.also:
        gguf_file.check(folder)
    if adapter and parent:
        base.check_parent(adapter, conf, parent)
    steps = len(batching.plan(chosen, conf, seed))
    start = f"version {parent}" if parent else f"the base model {model.base}"
    ctx.say(f"{conf.method}, {conf.objective}, from {start}: {new} new and {len(chosen) - new} earlier examples, {steps} steps of {conf.batch_size}")
    outcome = teach(job, ctx, source(ctx))
    record = {
        "train": conf.model_dump(mode="json"), "model": model.model_dump(), "seed": seed, "device": job.device, "precision": job.precision,
        "inputs": {name: artifact.sha256 for name, artifact in ctx.inputs.items()}, "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }  # fmt: skip
    outputs.accompany(ctx.path("adapter"), folder, record)
    ctx.output("adapter", ctx.path("adapter"))
    if conf.also:
        ctx.metrics["merged_apart"] = outputs.merge(folder, ctx.path("adapter"), ctx.path("merged"), chosen[0].ids)
    if "merged" in conf.also:
        ctx.output("merged", ctx.path("merged"))
    if "gguf" in conf.also:
        ctx.metrics["gguf_apart"] = gguf_file.write(ctx.path("merged"), ctx.path("model.gguf"), chosen[0].ids)
        ctx.output("gguf", ctx.path("model.gguf"))
    ctx.path("probe.json").write_text(json.dumps({"losses": outcome.probe, "quantized": conf.method == "qlora"}))
    ctx.output("probe", ctx.path("probe.json"), len(outcome.probe))
    losses = outcome.losses
    ctx.path("losses.jsonl").write_text("".join(json.dumps(x) + "\n" for x in losses))
    ctx.output("losses", ctx.path("losses.jsonl"), len(losses))
    watch.draw(losses, ctx.path("loss.png"))
    ctx.output("curve", ctx.path("loss.png"))
    ctx.path("ids.json").write_text(json.dumps(sorted(learned | {r.id for r in chosen})))
    ctx.output("ids", ctx.path("ids.json"))
    tail = losses[-max(1, len(losses) // 5) :]
    ctx.metrics |= {"steps": len(losses), "new_examples": new, "replayed": len(chosen) - new, "tokens": sum(int(x["tokens"]) for x in losses)}
    ctx.metrics |= {"final_loss": sum(x["loss"] for x in tail) / len(tail), **outcome.metrics}
    return None


STAGE = stage.Stage("train", run, needs=("tokenize",), extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
