"""The curation report: one HTML page that stands alone, with what became of a batch, rule by rule, and how sure its records are."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING

from tasks.curation.desk import LEARNED, Desk
from tasks.drawing import BLUE, GREEN, GREY, RED, axes, render, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = {"supervised": GREEN, "preference": BLUE, "thumb": "#7a5fb5", "review": "#d19a2e", "dropped": RED}
REASONS = 20  # the most that are shown
NUMBER = re.compile(r"\d+(?:\.\d+)?")


def page(desk: Desk, run: str) -> str:
    """The whole page."""
    plots = {"Where the records of each rule went": svg(flow(desk))} if desk.cases else {}
    if desk.good:
        plots["How sure the records are that say something of an answer: what was learned from, and what was not"] = svg(sureness(desk))
    if desk.trust:
        plots["How often people who judge answers are right, as far as others or a reviewer judged the same"] = svg(reliability(desk))
    reasons = Counter((case.rule, case.route, NUMBER.sub("…", case.why)) for case in desk.cases)
    return render(
        "curation_report.html.j2", run=run, total=len(desk.cases), routes=desk.routes(), learned=sum(desk.routes()[r] for r in LEARNED), counts=desk.counts,
        columns=tuple(COLOURS), plots=plots, reasons=reasons.most_common(REASONS), examples=Counter(e.kind for e in desk.examples), asks=len(desk.asks),
    )  # fmt: skip


def flow(desk: Desk) -> Figure:
    """A bar a rule, in the colours of where its records went."""
    shown = [count for count in desk.counts if any(count[route] for route in COLOURS)]
    figure, axis = axes(9.4, 0.6 + 0.36 * max(1, len(shown)))
    left = [0] * len(shown)
    for route, colour in COLOURS.items():
        widths = [count[route] for count in shown]
        if any(widths):
            axis.barh([count["rule"].replace("_", " ") for count in shown], widths, left=left, color=colour, label=route)
            left = [a + b for a, b in zip(left, widths, strict=True)]
    axis.invert_yaxis()
    axis.set(xlabel="records")
    axis.legend(frameon=False, ncols=len(COLOURS), loc="lower right")
    return figure


def sureness(desk: Desk) -> Figure:
    """Two histograms on one axis."""
    figure, axis = axes(9.4, 2.6)
    judged = [case for case in desk.cases if case.vote is not None and case.rule != "rights"]
    kept = [case.sure for case in judged if case.route in LEARNED]
    others = [case.sure for case in judged if case.route not in LEARNED]
    axis.hist([kept, others], bins=40, range=(0, 1), stacked=True, color=[GREEN, RED], label=["learned from", "review or dropped"])
    axis.set(xlabel="chance of being right", ylabel="records", xlim=(0, 1))
    axis.legend(frameon=False)
    return figure


def reliability(desk: Desk) -> Figure:
    """A histogram of people by their accuracy; half is a coin."""
    figure, axis = axes(9.4, 2.4)
    axis.hist(list(desk.trust.values()), bins=40, range=(0, 1), color=BLUE)
    axis.axvline(0.5, color=GREY, linestyle="--", linewidth=1, label="a coin, or always the same verdict")
    axis.set(xlabel="accuracy", ylabel="people", xlim=(0, 1))
    axis.legend(frameon=False)
    return figure
