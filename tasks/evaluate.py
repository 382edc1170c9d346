"""Score champion and challenger on the same frozen examples in the same run.

    python -m tasks.evaluate --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

The suite is the champion's, so that versions stay comparable; before the first champion it is drawn from the held-out
records and frozen, and the base model is the champion. Outputs: `suite`, `scores` (Parquet: a row a model and example),
`report` (JSON) and `plot` (PNG).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from flywheel import base_model, prompt, registry, stage, store
from flywheel.errors import DataError
from flywheel.manifest import Artifact
from flywheel.model import Decoding, Loaded, generate, load, log_losses
from flywheel.records import Example, fingerprint
from flywheel.settings import settings
from tasks.paired import METRICS, Comparison, compare

MIN_EXAMPLES = 5
LABELS = {"log_loss": "log loss (nats a token)", "perplexity": "perplexity", "rouge_l": "ROUGE-L", "exact_match": "exact match"}


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """The base model, the champion it is compared with, and the champion's frozen suite."""
    found = {"base": base_model.identity(ctx.config.model.base)}
    reference = registry.reference_for(ctx.upstream("train").outputs["adapter"].sha256)
    if reference:
        found |= {f"reference.{reference.version}": reference.adapter, "suite": reference.suite}
    return found


def reference_of(inputs: dict[str, Artifact]) -> int | None:
    """The version that was the champion, by its input's name; None: the base model."""
    return next((int(name.removeprefix("reference.")) for name in inputs if name.startswith("reference.")), None)


def freeze(heldout: Path, count: int) -> list[Example]:
    """A suite of at most `count` held-out examples, by id (a hash of the text, so a random draw that never changes)."""
    records = sorted((Example.model_validate_json(line) for line in heldout.read_bytes().splitlines()), key=lambda e: e.id)
    if len(records) < MIN_EXAMPLES:
        raise DataError(f"{len(records)} held-out records, too few to judge on", where=str(heldout), mend="Use a larger source, or raise ingest.heldout.")
    return records[:count]


def rouge_l(reference: str, answer: str) -> float:
    """ROUGE-L F1 with stemming, in [0, 1]."""
    from rouge_score.rouge_scorer import RougeScorer

    return float(RougeScorer(["rougeL"], use_stemmer=True).score(reference, answer)["rougeL"].fmeasure)


def score(ctx: stage.Context, name: str, loaded: Loaded, suite: list[Example]) -> list[dict[str, Any]]:
    """Loss, ROUGE-L and exact match of one model on each example."""
    conf = ctx.config.evaluate
    prompts = [prompt.encode(loaded.tokenizer, prompt.messages(e.instruction, e.input), ctx.config.model.prompt) for e in suite]
    answers = [prompt.encode_answer(loaded.tokenizer, e.output) for e in suite]
    limit = ctx.config.model.max_length
    losses = log_losses(loaded, [((p + a)[: max(limit, len(p) + 1)], len(p)) for p, a in zip(prompts, answers, strict=True)], conf.batch_size)
    ctx.say(f"  {name}: {len(suite)} answers scored")
    rows: list[dict[str, Any]] = [
        {"id": e.id, "loss": loss, "tokens": tokens, "rouge_l": None, "exact_match": None, "answer": None}
        for e, (loss, tokens) in zip(suite, losses, strict=True)
    ]
    asked = sorted(range(min(conf.generate, len(suite))), key=lambda i: len(prompts[i]))
    for start in range(0, len(asked), conf.batch_size):
        chosen = asked[start : start + conf.batch_size]
        for i, ids in zip(chosen, generate(loaded, [prompts[i] for i in chosen], Decoding(conf.max_new_tokens)), strict=True):
            text = loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()
            exact = float(fingerprint(text) == fingerprint(suite[i].output))
            rows[i] |= {"answer": text, "rouge_l": rouge_l(suite[i].output, text), "exact_match": exact}
        ctx.progress(f"  {name}: {start + len(chosen)} of {len(asked)} questions answered")
    return rows


def scored(ctx: stage.Context, name: str, adapter: Artifact | None, folder: Path | None, suite: list[Example], suite_sha: str) -> list[dict[str, Any]]:
    """`score`, remembered in the store by model, suite and decoding: a champion is not scored again every night."""
    conf, model = ctx.config.evaluate, ctx.config.model
    key = store.sha256_text(
        adapter.sha256 if adapter else "base",
        ctx.inputs["base"].sha256,
        suite_sha,
        model.prompt,
        str(model.max_length),
        str((conf.generate, conf.max_new_tokens)),
    )
    uri = store.join(settings().store, "cache", "scores", f"{key}.json")
    if store.exists(uri):
        ctx.say(f"  {name}: scored before")
        return list(json.loads(store.read_bytes(uri)))
    rows = score(ctx, name, load(base_model.local_folder(model.base, ctx.cache), folder), suite)
    store.write_bytes(uri, json.dumps(rows).encode())
    return rows


def draw(metrics: dict[str, Comparison], path: Path, names: tuple[str, str]) -> None:
    """Both models side by side, a panel a metric, with the gain and its interval above."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(metrics), figsize=(3 * len(metrics), 3.4), squeeze=False)
    for axis, (metric, c) in zip(axes[0], metrics.items(), strict=True):
        bars = axis.bar(names, [c.champion, c.challenger], color=["#b8bec9", "#2f5d9e"])
        axis.bar_label(bars, fmt="%.3g")
        axis.set_title(f"{LABELS[metric]}\ngain {c.gain:+.3f} [{c.low:+.3f}, {c.high:+.3f}]", fontsize=9)
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def run(ctx: stage.Context) -> None:
    """Score both, compare, report."""
    import pandas as pd

    conf, seed = ctx.config.evaluate, ctx.config.seed
    reference = reference_of(ctx.inputs)
    champion_name = f"version {reference}" if reference else "base model"
    if reference:
        suite = [Example.model_validate_json(line) for line in ctx.fetch("suite").read_bytes().splitlines()]
        ctx.outputs["suite"] = ctx.inputs["suite"]
    else:
        suite = freeze(ctx.fetch("clean.heldout"), conf.examples)
        ctx.path("suite.jsonl").write_text("".join(e.model_dump_json() + "\n" for e in suite))
        ctx.output("suite", ctx.path("suite.jsonl"), len(suite))
    ctx.say(f"comparing the challenger with {champion_name} on {len(suite)} frozen examples, {min(conf.generate, len(suite))} of them answered in full")
    champion = registry.get(reference) if reference else None
    adapter = ctx.inputs["train.adapter"]
    sha = ctx.outputs["suite"].sha256
    old = scored(ctx, "champion", champion.adapter if champion else None, registry.fetch(champion, ctx.cache) if champion else None, suite, sha)
    new = scored(ctx, "challenger", adapter, ctx.fetch("train.adapter"), suite, sha)
    scores = pd.concat([pd.DataFrame(old).assign(model="champion"), pd.DataFrame(new).assign(model="challenger")])
    scores.to_parquet(ctx.path("scores.parquet"), index=False)
    ctx.output("scores", ctx.path("scores.parquet"), len(scores))

    found = {metric: compare(scores, metric, 0.95, ctx.config.gate.resamples, seed) for metric in METRICS}
    metrics = {name: c for name, c in found.items() if c}
    for name, c in metrics.items():
        ctx.say(f"  {c.text(name)}")
        ctx.metrics |= {f"{name}.champion": c.champion, f"{name}.challenger": c.challenger, f"{name}.gain": c.gain}
    report = {
        "champion": reference,
        "suite": sha,
        "examples": len(suite),
        "metrics": {
            n: {"champion": c.champion, "challenger": c.challenger, "gain": c.gain, "interval": [c.low, c.high], "examples": c.examples}
            for n, c in metrics.items()
        },
    }
    ctx.path("report.json").write_text(json.dumps(report, indent=1))
    ctx.output("report", ctx.path("report.json"))
    draw(metrics, ctx.path("report.png"), (champion_name, "challenger"))
    ctx.output("plot", ctx.path("report.png"))


STAGE = stage.Stage("evaluate", run, needs=("clean", "train"), extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
