"""Fine-tune a LoRA adapter on answers only: `lora` on a bf16 base, `qlora` on an NF4 one.

    python -m tasks.train --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

SIGTERM saves a checkpoint and exits 143; a retry goes on from it with the same batches. Outputs: `adapter`, `losses`
(JSONL of step, loss, tokens), `curve` (PNG) and `ids` (every example learned so far, the parent's included).
"""

from __future__ import annotations

import io
import json
import math
import random
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flywheel import base_model, registry, spend, stage, store
from flywheel.config import Train
from flywheel.errors import ContractError, DataError, Preempted
from flywheel.manifest import Artifact
from tasks import worth

GROUP = 50  # batches sorted by length together: little padding, and still mixed


@dataclass(frozen=True)
class Row:
    """A tokenized example; its tokens stay in the Arrow file until they are asked for."""

    id: str
    tokens: Sequence[int] = field(compare=False)
    prompt: int
    feedback: bool

    @property
    def ids(self) -> list[int]:
        """Token ids of prompt and answer."""
        return list(map(int, self.tokens))


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


def read_rows(path: Path) -> list[Row]:
    """The tokenized examples of an Arrow file, which is mapped into memory: only what a batch asks for is read."""
    import pyarrow as pa

    rows: list[Row] = []
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        tokens, starts = batch["input_ids"].values.to_numpy(), batch["input_ids"].offsets.to_pylist()
        columns = (batch[name].to_pylist() for name in ("id", "prompt_length", "feedback"))
        rows += [Row(name, tokens[a:b], prompt, feedback) for name, prompt, feedback, a, b in zip(*columns, starts, starts[1:], strict=False)]
    return rows


def choose(rows: list[Row], learned: set[str], conf: Train, seed: int) -> list[Row]:
    """What this run learns: new examples, corrections first, and a share of earlier ones against forgetting."""
    order = sorted(rows, key=lambda r: store.sha256_text(str(seed), r.id))
    new = sorted((r for r in order if r.id not in learned), key=lambda r: not r.feedback)
    old = [r for r in order if r.id in learned]
    budget = conf.max_examples or len(rows)
    if not new:
        return old[:budget]
    chosen = new[: budget if not old else max(1, round(budget * (1 - conf.replay)))]
    wanted = round(len(chosen) * conf.replay / (1 - conf.replay)) if conf.replay < 1 else budget
    return chosen + old[: min(wanted, budget - len(chosen))]


def plan(rows: list[Row], conf: Train, seed: int) -> list[list[Row]]:
    """Every batch of every epoch, in order: a pure function, so that a resumed run sees the same ones."""
    steps = max(1, math.ceil(len(rows) / conf.batch_size * conf.epochs))
    batches: list[list[Row]] = []
    for epoch in range(math.ceil(conf.epochs)):
        dice = random.Random(f"{seed}:{epoch}")
        shuffled = dice.sample(rows, len(rows))
        size = GROUP * conf.batch_size
        groups = [sorted(shuffled[i : i + size], key=lambda r: len(r.tokens)) for i in range(0, len(shuffled), size)]
        ordered = [row for group in groups for row in group]
        epoch_batches = [ordered[i : i + conf.batch_size] for i in range(0, len(ordered), conf.batch_size)]
        dice.shuffle(epoch_batches)
        batches += epoch_batches
    return batches[:steps]


def rate(step: int, steps: int, conf: Train) -> float:
    """Learning rate at a step: linear warm-up, then linear decay to a tenth."""
    warm = max(1, round(steps * conf.warmup))
    if step < warm:
        return conf.learning_rate * (step + 1) / warm
    return conf.learning_rate * (1 - 0.9 * (step - warm) / max(1, steps - warm))


def build(ctx: stage.Context, parent: Path | None) -> tuple[Any, Any]:
    """The model with a trainable adapter, and its device."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    conf = ctx.config.train
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.bfloat16)
    folder = base_model.local_folder(ctx.config.model.base, ctx.cache)
    options: dict[str, Any] = {"quantization_config": quantized, "device_map": {"": device}} if conf.method == "qlora" else {}
    base: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.bfloat16, **options)
    base.to(device)
    if parent:
        return PeftModel.from_pretrained(base, str(parent), is_trainable=True), device
    lora = LoraConfig(r=conf.rank, lora_alpha=conf.alpha, lora_dropout=conf.dropout, target_modules="all-linear", task_type="CAUSAL_LM")
    return get_peft_model(base, lora), device


class Checkpoint:
    """The adapter, the optimizer and the step, saved whole in one file under the run's folder."""

    def __init__(self, ctx: stage.Context) -> None:
        self.uri = store.join(ctx.stage_uri, "checkpoints", ctx.cache_key[:12], "state.pt")
        self.saved = time.monotonic()

    def save(self, step: int, model: Any, optimizer: Any, losses: list[dict[str, float]]) -> None:
        """Write the state in which `step` is the next step."""
        import torch

        buffer = io.BytesIO()
        weights = {name: p.detach().cpu() for name, p in model.named_parameters() if p.requires_grad}
        state = {"step": step, "weights": weights, "optimizer": optimizer.state_dict(), "losses": losses, "random": torch.get_rng_state()}
        torch.save(state, buffer)
        store.write_bytes(self.uri, buffer.getvalue())
        self.saved = time.monotonic()

    def load(self, model: Any, optimizer: Any) -> tuple[int, list[dict[str, float]]]:
        """Restore and return the next step and the losses so far; (0, []) when nothing was saved."""
        import torch

        if not store.exists(self.uri):
            return 0, []
        state = torch.load(io.BytesIO(store.read_bytes(self.uri)), weights_only=True)
        parameters = dict(model.named_parameters())
        with torch.no_grad():
            for name, value in state["weights"].items():
                parameters[name].copy_(value)
        optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        return int(state["step"]), state["losses"]


@contextmanager
def mixed_precision(model: Any, device: Any, width: int) -> Iterator[None]:
    """Matrix products in bf16 on the adapter's fp32 weights; on a CPU, plain attention for batches up to 256 tokens wide.

    There the fused kernel's backward pass is the slower one; above, it is the one that fits in memory.
    """
    import torch
    from peft.helpers import disable_input_dtype_casting
    from torch.nn.attention import SDPBackend, sdpa_kernel

    plain = device.type == "cpu" and width <= 256
    with torch.autocast(device.type, torch.bfloat16), disable_input_dtype_casting(model), sdpa_kernel(SDPBackend.MATH) if plain else nullcontext():
        yield


def fit(ctx: stage.Context, model: Any, device: Any, batches: list[list[Row]], pad: int) -> list[dict[str, float]]:
    """Run every batch; returns step, loss (nats a token) and tokens of each. Raises Preempted after a checkpoint on SIGTERM."""
    import torch

    from flywheel.model import answer_loss

    conf = ctx.config.train
    trainable = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, lr=conf.learning_rate, weight_decay=0.0, fused=True)
    checkpoint = Checkpoint(ctx)
    before = spend.this_week()
    first, losses = checkpoint.load(model, optimizer)
    if first:
        ctx.say(f"going on from the checkpoint at step {first} of {len(batches)}")
    model.train()
    done, began, seen = first, time.monotonic(), 0
    try:
        for batch in batches[first:]:
            for group in optimizer.param_groups:
                group["lr"] = rate(done, len(batches), conf)
            examples = [(row.ids, row.prompt) for row in batch]
            answers = sum(len(ids) - question for ids, question in examples)
            with mixed_precision(model, device, max(len(row.tokens) for row in batch)):
                loss = answer_loss(model.get_base_model(), examples, pad, device).sum() / answers
            if not torch.isfinite(loss):
                raise DataError(f"the loss is {loss.item()} at step {done}", where="train", mend="Lower train.learning_rate, or look at the examples.")
            loss.backward()
            ctx.finish_on_sigterm = True  # from here the weights change: SIGTERM waits for the step's end
            torch.nn.utils.clip_grad_norm_(trainable, conf.max_grad_norm)
            optimizer.step()
            losses.append({"step": done, "loss": round(loss.item(), 4), "tokens": sum(len(ids) for ids, _ in examples)})
            done += 1
            ctx.finish_on_sigterm = False
            if ctx.stop_requested:
                raise Preempted("stopped by SIGTERM", where="train", mend="A retry goes on.")
            optimizer.zero_grad(set_to_none=True)
            seen += int(losses[-1]["tokens"])
            elapsed = time.monotonic() - began
            mean = sum(x["loss"] for x in losses[-20:]) / len(losses[-20:])
            ctx.progress(
                f"  step {done} of {len(batches)} · loss {mean:.3f} · {seen / elapsed:.0f} tokens/s · {elapsed / (done - first) * (len(batches) - done):.0f} s left"
            )
            if time.monotonic() - checkpoint.saved >= conf.checkpoint_seconds:
                checkpoint.save(done, model, optimizer, losses)
                if reason := worth.budget_spent(before.plus(stage.cost(ctx)), conf):
                    raise DataError(f"stopped at step {done} of {len(batches)}: {reason}", where="train", mend="Raise the budget: a retry goes on from here.")
    except Preempted:
        ctx.finish_on_sigterm = True
        checkpoint.save(done, model, optimizer, losses)
        raise Preempted(f"stopped by SIGTERM; step {done} of {len(batches)} is saved", where="train", mend="A retry goes on from there.") from None
    return losses


def draw(losses: list[dict[str, float]], path: Path) -> None:
    """The loss curve, smoothed over twenty steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.2))
    values = [x["loss"] for x in losses]
    axis.plot(values, color="#b8c7dd", linewidth=0.8)
    axis.plot([sum(values[max(0, i - 19) : i + 1]) / min(20, i + 1) for i in range(len(values))], color="#2f5d9e")
    axis.set(xlabel="step", ylabel="loss (nats a token)", title="Training loss")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def run(ctx: stage.Context) -> None:
    """Choose, train, save."""
    import torch

    conf, seed = ctx.config.train, ctx.config.seed
    if conf.threads:
        torch.set_num_threads(conf.threads)
    torch.manual_seed(seed)
    rows = read_rows(ctx.fetch("tokenize.train"))
    parent = parent_of(ctx.inputs)
    learned = set(json.loads(ctx.fetch("parent.ids").read_bytes())) if parent else set()
    chosen = choose(rows, learned, conf, seed)
    new = sum(r.id not in learned for r in chosen)
    batches = plan(chosen, conf, seed)
    reason = worth.budget_spent(spend.this_week(), conf)
    if parent and not reason:
        fresh = [r.ids for r in rows if r.id not in learned]
        reason = worth.too_little(fresh, [r.ids for r in rows if r.id in learned], conf)
    if reason:
        return ctx.skip(reason)
    start = f"version {parent}" if parent else f"the base model {ctx.config.model.base}"
    ctx.say(f"{conf.method} from {start}: {new} new and {len(chosen) - new} earlier examples, {len(batches)} steps of {conf.batch_size}")
    model, device = build(ctx, registry.fetch(registry.get(parent), ctx.cache) if parent else None)
    losses = fit(ctx, model, device, batches, model.config.pad_token_id or 0)
    model.save_pretrained(str(ctx.path("adapter")))
    ctx.path("losses.jsonl").write_text("".join(json.dumps(x) + "\n" for x in losses))
    draw(losses, ctx.path("loss.png"))
    ctx.path("ids.json").write_text(json.dumps(sorted(learned | {r.id for r in chosen})))
    ctx.output("adapter", ctx.path("adapter"))
    ctx.output("losses", ctx.path("losses.jsonl"), len(losses))
    ctx.output("curve", ctx.path("loss.png"))
    ctx.output("ids", ctx.path("ids.json"))
    tail = losses[-max(1, len(losses) // 5) :]
    ctx.metrics |= {"steps": len(losses), "new_examples": new, "replayed": len(chosen) - new, "tokens": sum(int(x["tokens"]) for x in losses)}
    ctx.metrics["final_loss"] = sum(x["loss"] for x in tail) / len(tail)
    return None


STAGE = stage.Stage("train", run, needs=("tokenize",), extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
