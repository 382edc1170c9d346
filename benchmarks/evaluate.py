"""Scoring with batches beside the usual one-at-a-time loop, on both models, in CPU-seconds.  make bench NAME=evaluate

Answers: 500 prompts, 64 new tokens, greedy; the peer is transformers' text-generation pipeline, one prompt a call. Losses: 1,000
examples; the peer is a loop of `model(ids, labels=…).loss`. Both run in float32 on the same weights, interleaved. The peer takes
ten times as long, so by default it gets every 25th prompt and every 10th example; PEER=all gives it everything.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, pipeline

from flywheel import base_model, prompt
from flywheel.model import Decoding, Loaded, generate, load, score_answers
from flywheel.settings import settings
from tasks import sources

PROMPTS, EXAMPLES, NEW_TOKENS, BATCH = 500, 1000, 64, 16
GENERATE_GOAL, LOSS_GOAL, EQUAL = 5.0, 4.0, 1e-4


class Clock:
    """CPU-seconds and pieces of work, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.pieces: dict[str, int] = {}

    @contextmanager
    def count(self, name: str, pieces: int) -> Iterator[None]:
        """Add what the block takes."""
        began = time.process_time()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began
        self.pieces[name] = self.pieces.get(name, 0) + pieces

    def each(self, name: str) -> float:
        """CPU-seconds a piece."""
        return self.seconds[name] / self.pieces[name]


def challenger(base: Path, folder: Path) -> Path:
    """An adapter with some weight in it, as training leaves one."""
    torch.manual_seed(1)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32), LoraConfig(r=16, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.002)
    model.save_pretrained(str(folder))
    return folder


def plain_loss(loaded: Loaded, ids: list[int], question: int) -> float:
    """The loss of one answer as most scripts compute it: the whole sequence's logits, prompts masked by -100."""
    labels = torch.tensor([[-100] * question + ids[question:]])
    with torch.inference_mode():
        return float(loaded.model(input_ids=torch.tensor([ids]), labels=labels).loss) * (len(ids) - question)


def main() -> int:
    """Print a line a block, then the JSON; 1 when a goal is missed."""
    every = (1, 1) if os.environ.get("PEER") == "all" else (25, 10)
    base = base_model.local_folder(base_model.BUILT_IN, settings().home / "cache")
    rows = [found[2] for found in sources.docs() if not isinstance(found, sources.Rejected)][:EXAMPLES]
    clock = Clock()
    same = 0
    apart = 0.0
    with tempfile.TemporaryDirectory() as folder:
        for name, adapter in (("champion", None), ("challenger", challenger(base, Path(folder)))):
            loaded = load(base, adapter, "float32")
            one_at_a_time = pipeline("text-generation", model=loaded.model, tokenizer=loaded.tokenizer)
            texts = [prompt.render(loaded.tokenizer, prompt.messages(row.instruction)) for row in rows]
            encoded = [prompt.encode(loaded.tokenizer, prompt.messages(row.instruction)) for row in rows]
            examples = [(ids + prompt.encode_answer(loaded.tokenizer, row.output), len(ids)) for ids, row in zip(encoded, rows, strict=True)]
            for start in range(0, PROMPTS, 100):
                block = sorted(range(start, min(start + 100, PROMPTS)), key=lambda i: len(encoded[i]))
                answers: dict[int, str] = {}
                for first in range(0, len(block), BATCH):
                    chosen = block[first : first + BATCH]
                    with clock.count("answers", len(chosen)):
                        drawn = generate(loaded, [encoded[i] for i in chosen], Decoding(NEW_TOKENS))
                    answers |= {i: loaded.tokenizer.decode(one.ids, skip_special_tokens=True) for i, one in zip(chosen, drawn, strict=True)}
                for i in block[:: every[0]]:
                    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "return_full_text": False, "add_special_tokens": False}
                    with clock.count("answers peer", 1):
                        reply = one_at_a_time(texts[i], **options)
                    same += reply[0]["generated_text"] == answers[i]
                print(f"{name}: {start + len(block)} of {PROMPTS} prompts answered", flush=True)
            with clock.count("losses", len(examples)):
                scored = score_answers(loaded, examples, BATCH)
            chosen = list(range(0, EXAMPLES, every[1]))
            with clock.count("losses peer", len(chosen)):
                peers = [plain_loss(loaded, *examples[i]) for i in chosen]
            tokens = sum(scored[i].tokens for i in chosen)
            ours, theirs = (math.exp(total / tokens) for total in (sum(scored[i].loss for i in chosen), sum(peers)))
            apart = max(apart, abs(ours - theirs) / theirs)
            print(f"{name}: perplexity {ours:.6f}, the plain loop's {theirs:.6f}", flush=True)
    ratios = {name: round(clock.each(f"{name} peer") / clock.each(name), 2) for name in ("answers", "losses")}
    print(f"the same answers: {same} of {clock.pieces['answers peer']}", flush=True)
    met = ratios["answers"] >= GENERATE_GOAL and ratios["losses"] >= LOSS_GOAL and apart <= EQUAL and same == clock.pieces["answers peer"]
    result = {
        "name": "evaluate",
        "ours": {"cpu_seconds_an_answer": round(clock.each("answers"), 3), "cpu_seconds_a_loss": round(clock.each("losses"), 3)},
        "peers": {"pipeline": round(clock.each("answers peer"), 3), "plain loop": round(clock.each("losses peer"), 3)},
        "ratios": ratios,
        "same_answers": f"{same} of {clock.pieces['answers peer']}",
        "perplexity_apart": apart,
        "goal": f"answers >= {GENERATE_GOAL:g}, losses >= {LOSS_GOAL:g}, perplexity within {EQUAL:g}, every answer the same",
        "met": met,
    }
    print(json.dumps(result))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
