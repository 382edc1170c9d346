"""Score champion and challenger on the same frozen questions in the same run.

    python -m tasks.evaluate --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

The held-out suite is the champion's, so that versions stay comparable; before the first champion it is drawn from the held-out
records and frozen, and the base model is the champion. What this turn fixed is added to the regression suite of the next.
What both are judged on goes into the ledger of evaluation sets: `clean` lets nothing like it be learned again.

Outputs: `suites` and `next_suites` (folders, a JSONL file a suite), `scores` (Parquet: a row a model and question),
`answers` (CSV: both models' answers side by side), `comparisons` (JSON: the same, blind, for people to choose), `report` (JSON) and `plot` (PNG).
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel import base_model, manifest, prompt, registry, stage
from flywheel.config import Suite
from flywheel.manifest import Artifact
from flywheel.records import FAILURE, Example
from tasks import grounded, harness, integrity, judge, metrics, overlap, preferences, suites
from tasks.metrics import METRICS
from tasks.paired import Comparison, pairs
from tasks.rules import FIXED_FROM, GONE_BELOW
from tasks.scoring import Candidate, harnessed, scored
from tasks.suites import Item

if TYPE_CHECKING:
    import pandas as pd

HELDOUT, REGRESSION, CORRECTIONS = "heldout", "regression", "corrections"
HEADLINES = ("log_loss", "perplexity", "rouge_l")


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """The base model, the champion it is compared with, the champion's frozen suites, and those the config names."""
    conf = ctx.config.evaluate
    found = {"base": base_model.identity(ctx.config.model.base)}
    reference = registry.reference_for(ctx.upstream("train").outputs["adapter"].sha256)
    if reference:
        found |= {f"reference.{reference.version}": reference.adapter, "suites": reference.suites}
    for suite in conf.suites:
        found[f"suite.{suite.name}"] = manifest.of_text(suites.locate(suite.path), suites.to_jsonl(suites.read(suite)))
    found |= harness.inputs(conf.harness) | grounded.inputs(ctx.config)
    if conf.preferences:
        found["preferences"] = manifest.of_text(conf.preferences, "".join(choice.model_dump_json() for choice in preferences.read(conf.preferences)))
    if conf.judge.url and conf.judge.labels:
        found["judge.labels"] = manifest.of_text(conf.judge.labels, "".join(label.model_dump_json() for label in judge.labels(conf.judge.labels)))
    return found


def reference_of(inputs: dict[str, Artifact]) -> int | None:
    """The version that was the champion, by its input's name; None: the base model."""
    return next((int(name.removeprefix("reference.")) for name in inputs if name.startswith("reference.")), None)


def corrected(examples: list[Example], learned: set[str], known: set[str]) -> list[Example]:
    """The corrections learned that are not asked for ever already; those of answers that several people found wrong come first."""
    found = (e for e in examples if e.feedback_ids and e.kind == "supervised" and e.id in learned and e.id not in known)
    return sorted(found, key=lambda e: (e.slice != FAILURE, e.id))


def compose(ctx: stage.Context, examples: list[Example], learned: set[str]) -> tuple[dict[str, list[Item]], dict[str, str]]:
    """The suites of this run and the role of each, written as files under `suites`."""
    conf = ctx.config.evaluate
    if "suites" in ctx.inputs:
        earlier = ctx.fetch("suites")
        found = {name: suites.from_jsonl(earlier / f"{name}.jsonl") for name in (HELDOUT, REGRESSION)}
    else:
        heldout = [Example.model_validate_json(line) for line in ctx.fetch("clean.heldout").read_bytes().splitlines()]
        found = {HELDOUT: suites.freeze(heldout, conf.examples, ctx.inputs["clean.heldout"].location), REGRESSION: []}
    roles = {HELDOUT: HELDOUT, REGRESSION: REGRESSION, CORRECTIONS: CORRECTIONS}
    known = {item.id for item in found[REGRESSION]}
    found[CORRECTIONS] = [suites.of_example(e) for e in corrected(examples, learned, known)[: conf.corrections]]
    for suite in conf.suites:
        found[suite.name] = suites.read(suite)
        roles[suite.name] = suite.role
    for name, items in found.items():
        if items and roles[name] in overlap.JUDGED:
            overlap.register(name, items)
    return {name: items for name, items in found.items() if items}, roles


def write(ctx: stage.Context, name: str, found: dict[str, list[Item]]) -> None:
    """An output folder with a file a suite."""
    ctx.path(name).mkdir()
    for suite, items in found.items():
        (ctx.path(name) / f"{suite}.jsonl").write_text(suites.to_jsonl(items))
    ctx.output(name, ctx.path(name), sum(map(len, found.values())))


def answered(suite: str, ctx: stage.Context, found: list[Item]) -> int:
    """How many of a suite's questions are answered in full."""
    named: Suite | None = next((s for s in ctx.config.evaluate.suites if s.name == suite), None)
    wanted = ctx.config.evaluate.generate if suite == HELDOUT else named.generate if named else None
    return len(found) if wanted is None else min(wanted, len(found))


def newly_fixed(scores: pd.DataFrame, items: list[Item]) -> list[Item]:
    """The corrections that the champion got wrong and the challenger gets right."""
    asked = scores[scores["suite"] == CORRECTIONS]
    if asked.empty:
        return []
    wide = asked.pivot(index="id", columns="model", values="rouge_l").astype(float)
    fixed = set(wide.index[(wide["champion"] < GONE_BELOW) & (wide["challenger"] >= FIXED_FROM)])
    return [item for item in items if item.id in fixed]


def judged(ctx: stage.Context, rows: list[dict[str, Any]], found: dict[str, list[Item]]) -> judge.Bench:
    """Fill in the judge's ratings of the held-out answers, if it may count."""
    items = {item.id: item for item in found[HELDOUT]}
    asked = [row for row in rows if row["suite"] == HELDOUT and row["answer"] is not None]
    texts = [(f"{items[row['id']].instruction}\n{items[row['id']].input}".strip(), items[row["id"]].output, str(row["answer"])) for row in asked]
    ratings, bench = judge.ratings_of(ctx.config.evaluate.judge, texts)
    for row, rating in zip(asked, ratings, strict=True):
        row["judge"] = rating
    ctx.say(f"  {bench.text}")
    return bench


def compare_blind(ctx: stage.Context, rows: list[dict[str, Any]], items: list[Item]) -> None:
    """Write the pairs of held-out answers for people to compare, and fill in what they chose, when they did."""
    answers: dict[str, dict[str, str]] = {}
    for row in rows:
        if row["suite"] == HELDOUT and row["answer"] is not None:
            answers.setdefault(row["id"], {})[row["model"]] = str(row["answer"])
    both = {id: (sides["champion"], sides["challenger"]) for id, sides in answers.items()}
    texts = {item.id: f"{item.instruction}\n\n{item.input}".strip() for item in items}
    pairs = [preferences.blind(id, texts[id], *sides) for id, sides in both.items() if sides[0] != sides[1]]
    ctx.path("comparisons.json").write_text(preferences.to_json(pairs))
    ctx.output("comparisons", ctx.path("comparisons.json"), len(pairs))
    if ctx.config.evaluate.preferences:
        choices = preferences.read(ctx.config.evaluate.preferences)
        preferred = preferences.shares(choices, both)
        for row in rows:
            if row["suite"] == HELDOUT and row["id"] in preferred:
                row["preference"] = preferred[row["id"]] if row["model"] == "challenger" else 1 - preferred[row["id"]]
        ctx.say(f"  people compared {len(preferred)} pairs of answers ({len(choices)} choices in the file)")


def summary(rows: list[dict[str, Any]], items: list[Item]) -> dict[str, Any]:
    """One model's figures on one suite that are no mean over examples: corpus BLEU and chrF, calibration, classes, speed."""
    found: dict[str, Any] = {}
    by_id = {item.id: item for item in items}
    full = [row for row in rows if row["answer"] is not None]
    referenced = [(str(row["answer"]), by_id[row["id"]].output) for row in full if by_id[row["id"]].output]
    if referenced:
        found |= metrics.corpus(*zip(*referenced, strict=True))
    labelled = [(str(row["answer"]), by_id[row["id"]].output) for row in full if by_id[row["id"]].label and by_id[row["id"]].output]
    if labelled:
        found |= metrics.classification(*zip(*labelled, strict=True))
    bins = [row["bins"] for row in rows if row["bins"]]
    if bins:
        counts, sums, right = ([sum(b[k][j] for b in bins) for k in range(10)] for j in range(3))
        found |= {"calibration_error": metrics.calibration_error(sums, counts, right), "calibration": [counts, sums, right]}
    if full:
        seconds, tokens = sum(row["seconds"] for row in full), sum(row["answer_tokens"] for row in full)
        found |= {"seconds_an_answer": seconds / len(full), "tokens_an_answer": tokens / len(full), "tokens_a_second": tokens / seconds if seconds else 0.0}
    return found


def draw(compared: dict[str, Comparison], path: Path, names: tuple[str, str]) -> None:
    """Both models side by side, a panel a metric, with the gain and its interval above."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = {name: c for name, c in compared.items() if name in ("log_loss", "perplexity", "rouge_l", "chrf", "token_f1")}
    figure, axes = pyplot.subplots(1, len(shown), figsize=(3 * len(shown), 3.4), squeeze=False)
    for axis, (metric, c) in zip(axes[0], shown.items(), strict=True):
        bars = axis.bar(names, [c.champion, c.challenger], color=["#b8bec9", "#2f5d9e"])
        axis.bar_label(bars, fmt="%.3g")
        low, high = c.interval()
        axis.set_title(f"{METRICS[metric].label}\ngain {c.gain:+.3f} [{low:+.3f}, {high:+.3f}]", fontsize=9)
        axis.margins(y=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def run(ctx: stage.Context) -> None:
    """Look the challenger over, score both, compare, report."""
    import pandas as pd

    base = base_model.local_folder(ctx.config.model.base, ctx.cache)
    adapter = ctx.fetch("train.adapter")
    reference = reference_of(ctx.inputs)
    champion_name = f"version {reference}" if reference else "the base model"
    learned = set(json.loads(ctx.fetch("train.ids").read_bytes()))
    examples = [Example.model_validate_json(line) for line in ctx.fetch("clean.train").read_bytes().splitlines()]
    found, roles = compose(ctx, examples, learned)
    write(ctx, "suites", found)
    report: dict[str, Any] = {
        "champion": reference,
        "roles": roles,
        "suites": {name: len(items) for name, items in found.items()},
        "suites_sha256": ctx.outputs["suites"].files,
        "history": [{"version": v.version, "created": v.created, "verdict": v.verdict, "metrics": v.metrics} for v in reversed(registry.versions())],
        "facts": {"money": ctx.upstream("train").cost.money, "integrity": integrity.adapter_problem(adapter, base)},
        "metrics": {},
    }
    if report["facts"]["integrity"]:
        ctx.say(f"the challenger cannot be scored: {report['facts']['integrity']}")
        write(ctx, "next_suites", {name: found[name] for name in (HELDOUT, REGRESSION) if name in found})
        return close(ctx, report)
    ctx.say(f"comparing the challenger with {champion_name}: " + ", ".join(f"{len(items)} {name}" for name, items in found.items()))
    report["facts"]["contaminated"] = contaminated(ctx, found, roles, examples, learned)

    champion = registry.get(reference) if reference else None
    sides = (
        Candidate("champion", champion.adapter if champion else None, lambda: registry.fetch(champion, ctx.cache) if champion else None),
        Candidate("challenger", ctx.inputs["train.adapter"], lambda: adapter),
    )
    rows: list[dict[str, Any]] = []
    asked = found[HELDOUT][: answered(HELDOUT, ctx, found[HELDOUT])]
    questions = grounded.ask(ctx, asked, prompt.load_tokenizer(base)) if "index" in ctx.inputs else []
    with_passages: dict[str, list[dict[str, Any]]] = {}
    for side in sides:
        for name, items in found.items():
            sha = (ctx.outputs["suites"].files or {})[f"{name}.jsonl"]
            rows += [{"suite": name, "model": side.name, **row} for row in scored(ctx, side, name, items, sha, answered(name, ctx, items))]
        for task in ctx.config.evaluate.harness.tasks:
            rows += [{"suite": harness.suite(task), "model": side.name, **row} for row in harnessed(ctx, side, task)]
            roles[harness.suite(task)] = "harness"
        if questions:
            with_passages[side.name] = grounded.score(ctx, side, questions)
        side.loaded = None  # one model in memory at a time
    if ctx.config.evaluate.judge.url:
        report["judge"] = vars(judged(ctx, rows, found))
    if questions:
        alone = {side.name: [row for row in rows if (row["model"], row["suite"]) == (side.name, HELDOUT)] for side in sides}
        report["retrieval"] = grounded.report(questions, alone, with_passages)
        for name, model in report["retrieval"]["models"].items():
            ctx.say(f"  {name} with passages, of {len(questions)} questions: {model['with passages']}; gain {model['gain']}")
    compare_blind(ctx, rows, found[HELDOUT])
    report["models"] = {side.name: {n: summary([r for r in rows if (r["model"], r["suite"]) == (side.name, n)], found[n]) for n in found} for side in sides}
    if not any(side.from_cache for side in sides):
        times = [report["models"][side.name][HELDOUT].get("seconds_an_answer") for side in sides]
        report["facts"]["latency_ratio"] = times[1] / times[0] if all(times) else None
    scores = pd.DataFrame(rows).drop(columns="bins")
    scores.to_parquet(ctx.path("scores.parquet"), index=False)
    ctx.output("scores", ctx.path("scores.parquet"), len(scores))
    write_answers(ctx, rows, found)
    fixed = newly_fixed(scores, found.get(CORRECTIONS, []))
    report["prompts"] = {item.id: [f"{item.instruction}\n{item.input}".strip(), item.output] for item in found[HELDOUT]}
    report["fixed"] = [item.id for item in fixed]
    write(ctx, "next_suites", {HELDOUT: found[HELDOUT], REGRESSION: [*found.get(REGRESSION, []), *fixed]})

    compared = {metric: pairs(scores[scores["suite"] == HELDOUT], metric).compare() for metric, m in METRICS.items() if m.column in scores}
    shown = {metric: c for metric, c in compared.items() if c and c.examples > 1}
    for name, c in shown.items():
        ctx.say(f"  {c.text()}")
        if name in HEADLINES:
            ctx.metrics |= {f"{name}.champion": c.champion, f"{name}.challenger": c.challenger, f"{name}.gain": c.gain}
        report["metrics"][name] = {
            "champion": c.champion, "challenger": c.challenger, "gain": c.gain, "interval": list(c.interval()), "examples": c.examples,
        }  # fmt: skip
    draw(shown, ctx.path("report.png"), (champion_name, "challenger"))
    ctx.output("plot", ctx.path("report.png"))
    return close(ctx, report)


def contaminated(ctx: stage.Context, found: dict[str, list[Item]], roles: dict[str, str], examples: list[Example], learned: set[str]) -> list[str]:
    """Ids of the suites' questions that were trained on, of those that nobody may have seen."""
    unseen = [item for name, items in found.items() if roles[name] in (HELDOUT, "general", "own") for item in items]
    leaked = integrity.contaminated(unseen, learned, examples)
    ctx.say(f"  suite questions trained on: {len(leaked)}")
    return leaked


def write_answers(ctx: stage.Context, rows: list[dict[str, Any]], found: dict[str, list[Item]]) -> None:
    """Every answered question with both answers, for people."""
    answers = {(row["suite"], row["id"], row["model"]): row["answer"] for row in rows if row["answer"] is not None}
    with open(ctx.path("answers.csv"), "w", newline="") as file:
        table = csv.writer(file)
        table.writerow(("suite", "slice", "id", "prompt", "reference", "champion", "challenger"))
        count = 0
        for name, items in found.items():
            for item in items:
                if (name, item.id, "challenger") in answers:
                    both = (answers.get((name, item.id, side), "") for side in ("champion", "challenger"))
                    table.writerow((name, item.slice, item.id, f"{item.instruction}\n\n{item.input}".strip(), item.output, *both))
                    count += 1
    ctx.output("answers", ctx.path("answers.csv"), count)


def close(ctx: stage.Context, report: dict[str, Any]) -> None:
    """Write the report."""
    ctx.path("report.json").write_text(json.dumps(report, indent=1))
    ctx.output("report", ctx.path("report.json"))


STAGE = stage.Stage("evaluate", run, needs=("clean", "tokenize", "train"), extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
