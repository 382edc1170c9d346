"""The evaluation report: one HTML page that stands alone, with the verdict first and the evidence below it."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from flywheel.config import Gate
from tasks.drawing import BLUE, GREEN, GREY, INK, RED, axes, render, svg
from tasks.metrics import METRICS
from tasks.paired import Comparison
from tasks.rules import Evidence, by_slice

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

SHOWN = 8  # wins and losses, each


def page(evidence: Evidence, measured: dict[str, Any], verdict: dict[str, Any], conf: Gate, run: str) -> str:
    """The whole page."""
    examples = {} if evidence.scores is None else sides(evidence.scores, measured.get("prompts", {}))
    plots = {} if evidence.scores is None else drawings(evidence, measured, conf)
    champion = f"version {measured['champion']}" if measured["champion"] else "the base model"
    return render(
        "report.html.j2",
        run=run,
        champion=champion,
        measured=measured,
        verdict=verdict,
        examples=examples,
        plots=plots,
        metrics=METRICS,
        primary=METRICS[conf.primary].label,
    )


def drawings(evidence: Evidence, measured: dict[str, Any], conf: Gate) -> dict[str, str]:
    """Every plot as inline SVG, by its caption."""
    found: dict[str, str] = {}
    label = METRICS[conf.primary].label
    heldout = evidence.pairs(conf.primary, "heldout")
    if heldout is not None and len(heldout.ids) > 1:
        found[f"Each held-out question's own gain in {label}, sorted: above the line the challenger is better"] = svg(gains(heldout.gains, label))
    kinds = {
        f"{suite}/{name}": c
        for suite, role in evidence.roles.items()
        if role in ("heldout", "own")
        for name, c in by_slice(evidence, suite, conf.primary).items()
    }
    kinds = {name: c for name, c in kinds.items() if c.examples > 1}
    whole = heldout.compare() if heldout is not None else None
    if whole and whole.examples > 1:
        found[f"Gain in {label} overall and in each slice, with 95 % intervals; the dashed line is the margin"] = svg(
            forest({"all": whole, **kinds}, -conf.slice_margin)
        )
    points = [(f"v{h['version']}", h["metrics"]["perplexity"], h["verdict"]) for h in measured["history"] if "perplexity" in h["metrics"]]
    if "perplexity" in measured["metrics"]:
        points.append(("now", measured["metrics"]["perplexity"]["challenger"], "now"))
    if len(points) > 1:
        found["Perplexity of every version on the frozen held-out suite; promoted ones are joined"] = svg(history(points))
    models = measured.get("models", {})
    if all("calibration" in models.get(side, {}).get("heldout", {}) for side in ("champion", "challenger")):
        found["Calibration: how often the likeliest next token was right, by how sure the model was"] = svg(
            calibration({side: models[side]["heldout"]["calibration"] for side in ("champion", "challenger")})
        )
    return found


def gains(values: Any, label: str) -> Figure:
    """Sorted paired differences as bars."""
    import numpy as np

    figure, axis = axes(7.2, 2.6)
    ordered = np.sort(values)[::-1]
    axis.bar(range(len(ordered)), ordered, width=1.0, color=np.where(ordered >= 0, GREEN, RED))
    axis.axhline(0, color=INK, linewidth=0.8)
    won, lost = int((values > 0).sum()), int((values < 0).sum())
    axis.set(xlabel=f"{won} better, {lost} worse, {len(values) - won - lost} equal", ylabel=f"gain, {label}", xticks=[])
    return figure


def forest(found: dict[str, Comparison], margin: float) -> Figure:
    """Gain and interval of each slice, one a line."""
    figure, axis = axes(7.2, 0.7 + 0.28 * len(found))
    for row, c in enumerate(found.values()):
        low, high = c.interval()
        axis.plot([low, high], [row, row], color=GREY if row else BLUE, linewidth=3, solid_capstyle="round")
        axis.plot(c.gain, row, "o", color=BLUE)
    axis.axvline(0, color=INK, linewidth=0.8)
    axis.axvline(margin, color=RED, linewidth=0.8, linestyle="--")
    axis.set_yticks(range(len(found)), [f"{name} ({c.examples})" for name, c in found.items()])
    axis.set_ylim(len(found) - 0.5, -0.5)
    axis.set_xlabel("worse  ←  gain  →  better")
    return figure


def history(points: list[tuple[str, float, str]]) -> Figure:
    """Perplexity by version; promoted ones joined, held grey, refused red, this run open."""
    figure, axis = axes(7.2, 2.6)
    promoted = [i for i, (_, _, verdict) in enumerate(points) if verdict == "promote"]
    axis.plot(promoted, [points[i][1] for i in promoted], color=BLUE, linewidth=1.2)
    for i, (_, value, verdict) in enumerate(points):
        colour = {"promote": BLUE, "refuse": RED, "hold": GREY}.get(verdict, "white")
        axis.plot(i, value, "o", color=colour, markeredgecolor=BLUE if verdict == "now" else colour)
    axis.set_xticks(range(len(points)), [name for name, _, _ in points])
    axis.set_ylabel("perplexity")
    return figure


def calibration(models: dict[str, list[list[float]]]) -> Figure:
    """Reliability curves of both models."""
    figure, axis = axes(3.6, 3.4)
    axis.plot([0, 1], [0, 1], color="#999", linewidth=0.8, linestyle="--")
    for (name, (counts, sums, right)), colour in zip(models.items(), (GREY, BLUE), strict=True):
        kept = [k for k in range(10) if counts[k] >= 10]
        axis.plot([sums[k] / counts[k] for k in kept], [right[k] / counts[k] for k in kept], "o-", color=colour, label=name, markersize=4)
    axis.set(xlabel="confidence", ylabel="right", xlim=(0, 1), ylim=(0, 1))
    axis.legend(frameon=False)
    return figure


def sides(scores: pd.DataFrame, prompts: dict[str, list[str]]) -> dict[str, list[dict[str, Any]]]:
    """The answered held-out questions where the challenger won and lost most, by ROUGE-L."""
    table = scores[(scores["suite"] == "heldout") & scores["rouge_l"].notna()]
    if table.empty:
        return {}
    wide = table.pivot(index="id", columns="model", values=["rouge_l", "answer"])
    change = wide["rouge_l"]["challenger"].astype(float) - wide["rouge_l"]["champion"].astype(float)
    ordered = change.sort_values(ascending=False, kind="stable")
    wins, losses = ordered[ordered > 0].head(SHOWN), ordered[ordered < 0][::-1].head(SHOWN)

    def row(name: str) -> dict[str, Any]:
        old, new = (str(wide["answer"][side][name]) for side in ("champion", "challenger"))
        return {"prompt": prompts.get(name, [name, ""]), "gain": float(change[name]), "champion": difference(new, old), "challenger": difference(old, new)}

    return {"wins": [row(str(name)) for name in wins.index], "losses": [row(str(name)) for name in losses.index]}


def difference(other: str, text: str) -> list[tuple[str, bool]]:
    """The words of a text, in runs, each marked when the other text does not have them there."""
    theirs, ours = other.split(), text.split()
    parts = []
    for tag, _, _, start, end in difflib.SequenceMatcher(a=theirs, b=ours, autojunk=False).get_opcodes():
        if start < end:
            parts.append((" ".join(ours[start:end]), tag != "equal"))
    return parts
