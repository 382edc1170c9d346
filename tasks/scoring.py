"""Score one model on one suite, once: losses and answers of every question, remembered by model, suite and decoding."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flywheel import base_model, code, prompt, stage, store
from flywheel.manifest import Artifact
from flywheel.model import Decoding, Loaded, Scored, generate, load, score_answers
from flywheel.settings import settings
from tasks import harness, metrics
from tasks.suites import Item

NO_SCORES: dict[str, Any] = {"loss": 0.0, "tokens": 0, "tokens_right": 0, "bins": []} | dict.fromkeys(
    ("answer", "answer_tokens", "seconds", "similarity", "judge", "preference", "harness", "passed", "unfinished", "refusal", "repetition", "toxic",
     "rouge_1", "rouge_l", "bleu", "chrf", "exact_match", "token_f1")
)  # fmt: skip


@dataclass
class Candidate:
    """One of the two models: what identifies it, and how to load it when something has to be scored."""

    name: str
    adapter: Artifact | None
    folder: Callable[[], Path | None]
    loaded: Loaded | None = None
    from_cache: bool = True

    def ready(self, ctx: stage.Context) -> Loaded:
        """The loaded model; loading happens once, and only when a suite has to be scored."""
        if self.loaded is None:
            self.loaded = load(base_model.local_folder(ctx.config.model.base, ctx.cache), self.folder(), precision(ctx))
        return self.loaded


def precision(ctx: stage.Context) -> Any:
    """float32 on a CPU, where it costs little and makes batches equal singles; bfloat16 on a GPU, unless the config says."""
    import torch

    wanted = ctx.config.evaluate.precision
    return wanted if wanted != "auto" else "bfloat16" if torch.cuda.is_available() else "float32"


def scored(ctx: stage.Context, candidate: Candidate, suite: str, items: Sequence[Item], sha: str, answered: int) -> list[dict[str, Any]]:
    """A row for each item; from the store when this model was asked this suite before, in the same way.

    `sha` is the suite's hash; the first `answered` items are answered in full.
    """
    conf, model = ctx.config.evaluate, ctx.config.model
    asked = {
        "suite": sha, "generate": answered, "max_new_tokens": conf.max_new_tokens, "embedder": conf.embedder, "prompt": model.prompt,
        "max_length": model.max_length, "code": code.digest("tasks.scoring"),
    }  # fmt: skip
    return remembered(ctx, candidate, suite, asked, lambda: score(ctx, f"{candidate.name} · {suite}", candidate.ready(ctx), items, answered))


def harnessed(ctx: stage.Context, candidate: Candidate, task: str) -> list[dict[str, Any]]:
    """A row for each document of a task of the lm-evaluation-harness."""
    conf = ctx.config.evaluate
    asked = {"task": task, "code": code.digest("tasks.harness"), **{name: a.sha256 for name, a in ctx.inputs.items() if name.startswith("harness")}}

    def compute() -> list[dict[str, Any]]:
        rows = harness.score(candidate.ready(ctx), conf.harness, task, conf.batch_size)
        ctx.say(f"  {candidate.name} · {harness.suite(task)}: {len(rows)} documents")
        return [{**NO_SCORES, "check": "", **row} for row in rows]

    return remembered(ctx, candidate, harness.suite(task), asked, compute)


def remembered(
    ctx: stage.Context, candidate: Candidate, suite: str, asked: dict[str, Any], compute: Callable[[], list[dict[str, Any]]]
) -> list[dict[str, Any]]:
    """The rows that the same model gave when it was asked the same before, or what `compute` gives now."""
    model = candidate.adapter.sha256 if candidate.adapter else "base"
    key = store.sha256_text(model, ctx.inputs["base"].sha256, str(precision(ctx)), json.dumps(asked, sort_keys=True))
    uri = store.join(settings().store, "cache", "scores", f"{key}.json")
    if store.exists(uri):
        ctx.say(f"  {candidate.name} · {suite}: scored before")
        return list(json.loads(store.read_bytes(uri)))
    rows = compute()
    candidate.from_cache = False
    store.write_bytes(uri, json.dumps(rows).encode())
    return rows


def score(ctx: stage.Context, name: str, loaded: Loaded, items: Sequence[Item], answered: int) -> list[dict[str, Any]]:
    """Losses of every item that has a reference, and every metric of the first `answered` items' answers."""
    conf = ctx.config.evaluate
    prompts = [prompt.encode(loaded.tokenizer, prompt.messages(item.instruction, item.input, item.history), ctx.config.model.prompt) for item in items]
    rows = [{"id": item.id, "slice": item.slice, "check": item.check, **NO_SCORES} for item in items]
    for row, measured in zip(rows, _losses(ctx, loaded, items, prompts), strict=True):
        row |= {"loss": measured.loss, "tokens": measured.tokens, "tokens_right": measured.right, "bins": [list(b) for b in measured.bins]}
    asked = sorted(range(min(answered, len(items))), key=lambda i: len(prompts[i]))
    for start in range(0, len(asked), conf.batch_size):
        chosen = asked[start : start + conf.batch_size]
        began = time.monotonic()
        drawn = generate(loaded, [prompts[i] for i in chosen], Decoding(conf.max_new_tokens))
        seconds = (time.monotonic() - began) / len(chosen)
        for i, one in zip(chosen, drawn, strict=True):
            item, text = items[i], loaded.tokenizer.decode(one.ids, skip_special_tokens=True).strip()
            rows[i] |= {"answer": text, "answer_tokens": len(one.ids), "seconds": seconds, "unfinished": float(not one.finished)}
            rows[i] |= metrics.of_answer(text, item.output)
            if item.checked:
                rows[i]["passed"] = float(item.passes(text))
        ctx.progress(f"  {name}: {start + len(chosen)} of {len(asked)} questions answered")
    if conf.embedder:
        from tasks import similarity

        pairs = [(i, str(rows[i]["answer"]), items[i].output) for i in asked if items[i].output]
        for (i, _, _), value in zip(pairs, similarity.of([(a, b) for _, a, b in pairs], conf.embedder), strict=True):
            rows[i]["similarity"] = value
    ctx.say(f"  {name}: {len(items)} questions, {len(asked)} of them answered in full")
    return rows


def _losses(ctx: stage.Context, loaded: Loaded, items: Sequence[Item], prompts: Sequence[list[int]]) -> list[Scored]:
    """Of each reference answer; no tokens where there is none."""
    limit = ctx.config.model.max_length
    examples = []
    for item, question in zip(items, prompts, strict=True):
        answer = prompt.encode_answer(loaded.tokenizer, item.output) if item.output else []
        examples.append(((question + answer)[: max(limit, len(question) + 1)] if answer else question, len(question)))
    with_reference = [i for i, item in enumerate(items) if item.output]
    found: list[Scored] = [Scored(0.0, 0, 0, [])] * len(items)
    for i, one in zip(with_reference, score_answers(loaded, [examples[i] for i in with_reference], ctx.config.evaluate.batch_size), strict=True):
        found[i] = one
    return found
