"""One page about one turn: the loop with the time and cost of each stage, data in and out, what was learned, the verdict, samples, history.

    python -m tasks.summary --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Runs last, whatever became of the stages before: what a failed turn did until then is told, too. Output: `page` (HTML that stands alone);
its metrics are what the run's note and the message about it say.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from flywheel import manifest, stage, store, turn
from flywheel.errors import ContractError
from flywheel.manifest import Artifact, Cost, Manifest
from flywheel.settings import settings
from tasks.drawing import render

LABELS = {"promote": "promoted", "hold": "held", "refuse": "refused"}
PLOT = (640.0, 120.0)  # width and height of the history, in its own units
Stages = Mapping[str, Manifest]


@dataclass(frozen=True)
class Bar:
    """One stage in the picture of the turn; `left` and `width` are in percent of the whole."""

    stage: str
    left: float
    width: float
    seconds: float
    cost: Cost
    note: str


def of_run(run_dir: str) -> dict[str, Manifest]:
    """The stages of a run that have finished, in their order."""
    found = {}
    for name in turn.STAGES:
        if store.exists(manifest.manifest_uri(run_dir, name)):
            found[name] = manifest.read_for(run_dir, name)
    return found


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """What is told of: the manifests that are there."""
    found = {}
    for name in of_run(ctx.run_dir):
        uri = manifest.manifest_uri(ctx.run_dir, name)
        found[f"{name}.manifest"] = manifest.of_text(store.relative(uri), store.read_bytes(uri).decode())
    return found


def bars(stages: Stages) -> list[Bar]:
    """The picture: when each stage ran and what it cost."""
    began = min(m.started for m in stages.values())
    whole = max((max(m.ended for m in stages.values()) - began).total_seconds(), 0.001)
    found = []
    for name, m in stages.items():
        seconds = (m.ended - m.started).total_seconds()
        note = "done before" if m.cached_from else f"skipped: {m.reason}" if m.reason else f"attempt {m.attempt}" if m.attempt > 1 else ""
        left = 100 * (m.started - began).total_seconds() / whole
        found.append(Bar(name, left, min(100 - left, 100 * seconds / whole), seconds, m.cost, note))
    return found


def outcome(stages: Stages) -> dict[str, Any]:
    """How it ended, as metrics: `ended` is promoted, held, refused, rolled out, skipped or failed; `at` and `why` say where and why."""
    total = Cost(currency=settings().currency)
    for m in stages.values():
        total = total.plus(m.cost)
    found: dict[str, Any] = {"money": total.money, "currency": total.currency, "cpu_seconds": total.cpu_seconds, "gpu_seconds": total.gpu_seconds}
    found["stage_seconds"] = round(sum((m.ended - m.started).total_seconds() for m in stages.values()), 2)
    found["seconds"] = round((max(m.ended for m in stages.values()) - min(m.started for m in stages.values())).total_seconds(), 2) if stages else 0.0
    found |= gains(stages)
    skipped = next(((name, m.reason) for name, m in stages.items() if m.outcome == "skipped" and name != "rollout"), None)
    gate, rollout = stages.get("gate"), stages.get("rollout")
    if skipped:
        return found | {"ended": "skipped", "at": skipped[0], "why": skipped[1]}
    if gate is None or "register" not in stages:
        at = next(name for name in turn.STAGES if name not in stages)
        return found | {"ended": "failed", "at": at, "why": f"{at} did not finish"}
    found |= {"verdict": gate.metrics["verdict"], "version": stages["register"].metrics["version"]}
    if gate.metrics["verdict"] == "promote":
        if rollout is not None and rollout.outcome == "done":
            return found | {"ended": "rolled out", "at": "rollout", "why": gate.metrics["reason"]}
        return found | {"ended": "promoted", "at": "rollout", "why": rollout.reason if rollout else "nobody approved it, or its trial was ended"}
    return found | {"ended": LABELS[str(gate.metrics["verdict"])], "at": "gate", "why": gate.metrics["reason"]}


def gains(stages: Stages) -> dict[str, Any]:
    """The gain in the gate's primary metric, as the evaluation measured it."""
    evaluated, gate = stages.get("evaluate"), stages.get("gate")
    primary = str(gate.params.get("primary", "")) if gate else ""
    gain = evaluated.metrics.get(f"{primary}.gain") if evaluated else None
    return {"primary": primary, "gain": gain} if isinstance(gain, int | float) else {}


def flows(stages: Stages) -> list[tuple[str, dict[str, int]]]:
    """How many records each stage took and gave, by output."""
    shown = ("ingest", "clean", "tokenize", "dataset")
    return [(name, {o: a.rows for o, a in stages[name].outputs.items() if a.rows is not None}) for name in shown if name in stages]


def samples(stages: Stages, ctx: stage.Context, count: int) -> list[dict[str, str]]:
    """Held-out questions with both answers, the ones that differ first."""
    evaluated = stages.get("evaluate")
    if evaluated is None or "answers" not in evaluated.outputs or not count:
        return []
    try:
        with open(evaluated.outputs["answers"].fetch(ctx.cache), newline="") as file:
            rows = [row for row in csv.DictReader(file) if row["suite"] == "heldout"]
    except ContractError:  # it was cleared away since
        return []
    return sorted(rows, key=lambda row: row["champion"] == row["challenger"])[:count]


def history(ctx: stage.Context, own: dict[str, Any], count: int) -> list[dict[str, Any]]:
    """The turns before that left a summary, and this one, oldest first; `metrics` are theirs."""
    root = ctx.run_dir.rsplit("/", 1)[0]
    names = sorted(store.list_names(root), key=lambda name: name.partition("__")[2])[-3 * count :]
    found: list[dict[str, Any]] = []
    for name in names:
        run = store.join(root, name)
        if run != ctx.run_dir and store.exists(manifest.manifest_uri(run, "summary")):
            m = manifest.read_for(run, "summary")
            found.append({"run": name, "at": m.started, "metrics": m.metrics})
    found = sorted(found, key=lambda turned: turned["at"])[-(count - 1) :] if count > 1 else []
    return [*found, {"run": ctx.run_dir.rsplit("/", 1)[-1], "at": None, "metrics": own}]


def plot(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where each turn's cost (a bar) and gain (a dot) stand in the picture of the history; nothing for a single turn."""
    if len(turns) < 2:
        return []
    width, height = PLOT
    most = max(float(t["metrics"].get("money") or 0) for t in turns) or 1.0
    values = [float(t["metrics"]["gain"]) for t in turns if t["metrics"].get("gain") is not None]
    reach = max((abs(v) for v in values), default=0.0) or 1.0
    step = width / len(turns)
    points: list[dict[str, Any]] = []
    for place, told in enumerate(turns):
        gain, money = told["metrics"].get("gain"), float(told["metrics"].get("money") or 0)
        points.append({
            "x": (place + 0.5) * step, "bar": 0.4 * height * money / most, "y": None if gain is None else height * (0.35 - 0.3 * float(gain) / reach),
            "ended": told["metrics"].get("ended", ""), "title": f"{told['run']}: {told['metrics'].get('ended', '')}"
            + ("" if gain is None else f", gain {float(gain):+.4f}") + f", {money:.4f} {told['metrics'].get('currency', '')}",
        })  # fmt: skip
    return points


def loss(stages: Stages, ctx: stage.Context) -> str:
    """The training loss as points of an SVG line, at most a hundred; empty when nothing was trained."""
    trained = stages.get("train")
    if trained is None or "losses" not in trained.outputs:
        return ""
    try:
        lines = trained.outputs["losses"].fetch(ctx.cache).read_text().splitlines()
    except ContractError:
        return ""
    values = [float(json.loads(line)["loss"]) for line in lines]
    values = values[:: max(1, len(values) // 100)]
    low, high = min(values), max(values)
    return " ".join(f"{640 * i / max(1, len(values) - 1):.1f},{110 - 100 * (v - low) / ((high - low) or 1):.1f}" for i, v in enumerate(values))


def links(ctx: stage.Context, stages: Stages) -> dict[str, str]:
    """Where to look further."""
    dag_id = ctx.run_dir.split("/")[-2]
    found = {"Airflow": f"{settings().airflow_url}/dags/{dag_id}"}
    if "register" in stages:
        metrics = stages["register"].metrics
        found["Evaluation report"] = str(metrics["page"])
        found["MLflow run"] = str(metrics["page"]).partition("/artifacts")[0]
        found["Model version"] = f"{settings().mlflow_url}/#/models/{settings().model_name}/versions/{metrics['version']}"
    return found


def run(ctx: stage.Context) -> None:
    """Read, draw, write."""
    conf = ctx.config.summary
    stages = of_run(ctx.run_dir)
    told = outcome(stages)
    turns = history(ctx, told, conf.history)
    verdict: dict[str, Any] = {}
    if "gate" in stages:
        verdict = json.loads(store.read_bytes(stages["gate"].outputs["verdict"].location))
    page = render(
        "summary.html.j2", run=ctx.run_dir.rsplit("/", 1)[-1], told=told, bars=bars(stages) if stages else [], stages=stages, verdict=verdict, flows=flows(stages),
        samples=samples(stages, ctx, conf.samples), turns=turns, points=plot(turns), plot=PLOT, loss=loss(stages, ctx), links=links(ctx, stages),
        missing=[name for name in turn.STAGES if name not in stages], moment=moment,
    )  # fmt: skip
    ctx.path("turn.html").write_text(page)
    ctx.output("page", ctx.path("turn.html"))
    ctx.metrics |= {**told, "config": ctx.config.digest()}
    ctx.say(f"{told['ended']}: {told['why']}")


def moment(at: datetime | None) -> str:
    """A moment for people."""
    return f"{at:%Y-%m-%d %H:%M}" if at else "now"


STAGE = stage.Stage("summary", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
