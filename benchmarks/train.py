"""Real tokens a CPU-second of training, beside TRL, LLaMA-Factory and the plain recipe, on SmolLM2.  make bench NAME=train

The same examples in the same order of length groups, LoRA of rank 16 on all linear layers. Ours: `tasks.training`. Peers: TRL's
SFTTrainer at its best here (bf16 where the CPU has it, those length groups, loss on answers only, no checkpointing), LLaMA-Factory with the same
settings (LLAMAFACTORY=/folder/bin/python, of an environment with `llamafactory==0.9.5`; left out without), and the plain recipe (fp32, every
example padded to 512). Rounds are interleaved. Only steps are timed: forward, backward, optimizer. All but the plain recipe begin with the same
adapter in the same precision: the mean of their losses must agree; the largest difference of a step is printed, too. The plain recipe takes many
times as long: it gets one step of four examples a round.
Beside that the whole stage, saving as often as it may: its CPU-seconds beyond its steps, and the share of its time that checkpoints take.
One thread, unless OMP_NUM_THREADS says otherwise; ROUNDS=3 measures longer.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from datasets import Dataset, DatasetDict
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, TrainerCallback
from trl import SFTConfig, SFTTrainer

from flywheel import base_model, config, manifest, prompt, stage
from flywheel.config import Train
from flywheel.settings import REPOSITORY, settings
from tasks import clean, ingest, sources, tokenize
from tasks.training import backends, base, batching
from tasks.training.machine import Machine
from tasks.training.objectives import Supervised
from tasks.training.rows import Row

EXAMPLES, BATCH, PLAIN, WIDTH, RATE = 32, 8, 4, 512, 1e-4
GOALS, EQUAL = {"plain": 7.0, "trl": 1.3, "llama_factory": 1.3}, 0.02
OVERHEAD_GOAL, CHECKPOINT_GOAL = 25.0, 0.05
PRECISION = Machine.here().precision(Train(device="cpu"))


class Clock:
    """CPU-seconds, real tokens and the first loss of each way."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.tokens: dict[str, int] = {}
        self.losses: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float, tokens: int, losses: list[float]) -> None:
        """One round."""
        self.seconds[name] = self.seconds.get(name, 0.0) + seconds
        self.tokens[name] = self.tokens.get(name, 0) + tokens
        self.losses.setdefault(name, losses)

    def speed(self, name: str) -> float:
        """Real tokens a CPU-second."""
        return self.tokens[name] / self.seconds[name]


def ours(folder: Path, steps: list[list[Row]], clock: Clock) -> None:
    """Our loop's steps."""
    conf = Train(learning_rate=RATE)
    model: Any = base.build(folder, None, conf, PRECISION, "cpu", 1).train()
    backend = backends.make(backends.scorer(model, 0, "cpu", PRECISION, False), conf)
    objective = Supervised([], conf)
    losses, began = [], time.process_time()
    for batch in steps:
        loss = objective.loss(batch, backend.score([(row.ids, row.prompt) for row in batch])) / objective.weight(batch)
        backend.backward(loss, True)
        backend.step(RATE)
        losses.append(loss.item())
    clock.add("ours", time.process_time() - began, sum(len(row.tokens) for batch in steps for row in batch), losses)


class Timed(TrainerCallback):
    """CPU-seconds inside the trainer's steps."""

    def __init__(self) -> None:
        self.seconds, self.began = 0.0, 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.seconds += time.process_time() - self.began


def trl(folder: Path, steps: list[list[Row]], clock: Clock) -> None:
    """TRL on the same batches: they come in our order, which are length groups."""
    ordered = [row for batch in steps for row in batch]
    data = Dataset.from_list([{"input_ids": row.ids, "completion_mask": [0] * row.prompt + [1] * (len(row.tokens) - row.prompt)} for row in ordered])
    with tempfile.TemporaryDirectory() as out:
        options = SFTConfig(
            output_dir=out, per_device_train_batch_size=BATCH, learning_rate=RATE, lr_scheduler_type="constant", num_train_epochs=1, use_cpu=True,
            bf16=PRECISION == "bfloat16", gradient_checkpointing=False, train_sampling_strategy="sequential", completion_only_loss=True, max_length=None,
            packing=False, report_to="none", save_strategy="no", logging_steps=1, disable_tqdm=True, dataloader_pin_memory=False, seed=1,
        )  # fmt: skip
        model: Any = base.build(folder, None, Train(), PRECISION, "cpu", 1)  # the same beginning as ours
        timed = Timed()
        trainer = SFTTrainer(model=model, args=options, train_dataset=data, processing_class=prompt.load_tokenizer(folder), callbacks=[timed])
        trainer.train()
    losses = [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]
    clock.add("trl", timed.seconds, sum(len(row.tokens) for row in ordered), losses)


def llama_factory(folder: Path, steps: list[list[Row]], clock: Clock) -> None:
    """LLaMA-Factory on the same batches, in its own environment."""
    ordered = [row for batch in steps for row in batch]
    with tempfile.TemporaryDirectory() as made:
        data = Dataset.from_list(
            [{"input_ids": row.ids, "attention_mask": [1] * len(row.ids), "labels": [-100] * row.prompt + row.ids[row.prompt :]} for row in ordered]
        )
        DatasetDict({"train": data}).save_to_disk(f"{made}/data")
        base.build(folder, None, Train(), PRECISION, "cpu", 1).save_pretrained(f"{made}/adapter")  # the same beginning as ours
        options = {
            "stage": "sft", "do_train": True, "finetuning_type": "lora", "model_name_or_path": str(folder), "adapter_name_or_path": f"{made}/adapter",
            "template": "chatml", "dataset": "given", "tokenized_path": f"{made}/data", "disable_shuffling": True, "output_dir": f"{made}/out", "save_strategy": "no",
            "per_device_train_batch_size": BATCH, "learning_rate": RATE, "lr_scheduler_type": "constant", "num_train_epochs": 1, "use_cpu": True,
            "bf16": PRECISION == "bfloat16", "disable_gradient_checkpointing": True, "flash_attn": "sdpa", "report_to": "none", "logging_steps": 1,
            "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 1,
        }  # fmt: skip
        (Path(made) / "settings.json").write_text(json.dumps(options))
        command = [os.environ["LLAMAFACTORY"], str(REPOSITORY / "benchmarks" / "llama_factory.py"), f"{made}/settings.json"]
        done = subprocess.run(command, cwd=made, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"}, stdout=subprocess.PIPE, check=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    clock.add("llama_factory", found["seconds"], sum(len(row.tokens) for row in ordered), found["losses"])


def plain(folder: Path, steps: list[list[Row]], clock: Clock) -> None:
    """fp32, every example padded, logits and labels everywhere."""
    torch.manual_seed(1)
    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model: Any = get_peft_model(AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32), lora).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE)
    rows = steps[0][:PLAIN]
    ids, labels, mask = torch.zeros((PLAIN, WIDTH), dtype=torch.long), torch.full((PLAIN, WIDTH), -100), torch.zeros((PLAIN, WIDTH), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row.tokens)], mask[i, : len(row.tokens)] = torch.tensor(row.ids), 1
        labels[i, row.prompt : len(row.tokens)] = torch.tensor(row.ids[row.prompt :])
    began = time.process_time()
    loss = model(input_ids=ids, attention_mask=mask, labels=labels).loss
    loss.backward()
    optimizer.step()
    clock.add("plain", time.process_time() - began, sum(len(row.tokens) for row in rows), [loss.item()])


def whole_stage() -> tuple[float, float]:
    """CPU-seconds of `python -m tasks.train` beyond its steps, and the share of the steps' time that went into checkpoints."""
    run = f"{settings().store}/runs/bench/train-{os.getpid()}"
    changes = ["ingest.limit=80", "train.start=base", f"train.max_examples={EXAMPLES}", "train.threads=1", "train.checkpoint_seconds=1"]
    path = str(REPOSITORY / "config" / "flywheel.yaml")
    for module in (ingest, clean, tokenize):
        stage.execute(module.STAGE, config.load(path, changes), run)
    command = [sys.executable, "-m", "tasks.train", "--config", path, "--run-dir", run, *(part for change in changes for part in ("--set", change))]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--set", f"seed={os.getpid()}"], cwd=REPOSITORY, check=True, stdout=sys.stderr)  # a seed of its own: never done before
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = manifest.read_for(run, "train").metrics
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return spent - float(found["tokens"] or 0) / float(found["tokens_per_cpu_second"] or 1), float(found["checkpoint_share"] or 0)


def main() -> int:
    """Print a line a round, then the JSON; 1 when a goal is missed."""
    folder = base_model.local_folder(base_model.BUILT_IN, settings().home / "cache")
    tokenizer = prompt.load_tokenizer(folder)
    records = [found[2] for found in sources.docs() if not isinstance(found, sources.Rejected)][:EXAMPLES]
    rows = []
    for record in records:
        question = prompt.encode(tokenizer, prompt.messages(record.instruction))
        rows.append(Row(record.instruction, question + prompt.encode_answer(tokenizer, record.output), len(question), False))
    rows = [row for row in rows if len(row.tokens) <= WIDTH]
    steps = batching.plan(rows, Train(batch_size=BATCH), 1)
    ways = [ours, trl, *([llama_factory] if "LLAMAFACTORY" in os.environ else []), plain]
    clock = Clock()
    for number in range(int(os.environ.get("ROUNDS", "1"))):
        for way in ways:
            way(folder, steps, clock)
        print(f"round {number + 1}: " + ", ".join(f"{name} {clock.speed(name):.0f} tokens a CPU-second" for name in clock.tokens), flush=True)
    peers = [way.__name__ for way in ways[1:]]
    ratios = {name: clock.speed("ours") / clock.speed(name) for name in peers}
    apart = {name: [a - b for a, b in zip(clock.losses["ours"], clock.losses[name], strict=True)] for name in peers if name != "plain"}
    mean_apart = {name: abs(sum(each)) / len(each) for name, each in apart.items()}
    print("losses: " + "; ".join(f"{name} " + ", ".join(f"{x:.4f}" for x in clock.losses[name]) for name in ("ours", *apart)))
    overhead, share = whole_stage()
    print(f"the whole stage: {overhead:.1f} CPU-seconds beyond its steps; checkpoints took {share:.1%} of the time")
    as_fast, as_good = all(ratio >= GOALS[name] for name, ratio in ratios.items()), max(mean_apart.values()) <= EQUAL
    met = as_fast and as_good and overhead < OVERHEAD_GOAL and share <= CHECKPOINT_GOAL
    result = {
        "name": "train",
        "ours": {"tokens_a_cpu_second": round(clock.speed("ours"), 1), "stage_overhead_cpu_seconds": round(overhead, 1), "checkpoint_share": round(share, 4)},
        "peers": {name: round(clock.speed(name), 1) for name in peers},
        "ratios": {name: round(ratio, 2) for name, ratio in ratios.items()},
        "loss_apart": {name: round(each, 4) for name, each in mean_apart.items()},
        "largest_step_apart": {name: round(max(map(abs, each)), 4) for name, each in apart.items()},
        "goal": ", ".join(f"{name} >= {GOALS[name]:g}" for name in peers)
        + f", mean losses within {EQUAL:g}, overhead < {OVERHEAD_GOAL:g}, checkpoints <= {CHECKPOINT_GOAL:.0%}",
        "met": met,
    }
    print(json.dumps(result))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
