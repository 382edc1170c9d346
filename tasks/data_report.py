"""The data report: one HTML page that stands alone, with what came in, what was dropped where and why, and what is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flywheel.datasets import Profile
from tasks.data_card import personal_data
from tasks.data_facts import Facts
from tasks.drawing import BLUE, GREY, RED, axes, render, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SLICES, WORDS = 20, 12  # the most that are shown


def page(facts: Facts) -> str:
    """The whole page."""
    plots = {"Tokens of the training records, the answer alone and with its prompt; the last bin has the longest hundredth, too": svg(lengths(facts.lengths))}
    words: list[tuple[str, float, float]] = []
    if facts.before:
        plots["Characters of the training records, now and in the version before"] = svg(drift(facts.before, facts.profile))
        words = moved(facts.before, facts.profile)
    policy, _, configured = personal_data(facts).partition("\n\n")
    return render(
        "data_report.html.j2", facts=facts, total=sum(facts.records.values()), plots=plots, words=words, slices=slices(facts), policy=policy,
        configured=configured.removeprefix("```yaml\n").removesuffix("\n```"),
    )  # fmt: skip


def lengths(found: dict[str, Any]) -> Figure:
    """Both histograms in tokens, and the limit where it is in sight."""
    figure, axis = axes(9.4, 2.8)
    axis.stairs(found["both"]["counts"], found["edges"], color=GREY, fill=True, alpha=0.5, label="prompt and answer")
    axis.stairs(found["answer"]["counts"], found["edges"], color=BLUE, linewidth=1.6, label="answer")
    if found["limit"] <= found["edges"][-1]:
        axis.axvline(found["limit"], color=RED, linestyle="--", linewidth=1, label=f"limit {found['limit']}")
    axis.set(xlabel="tokens", ylabel="records", xlim=(0, found["edges"][-1]))
    axis.legend(frameon=False)
    return figure


def drift(before: Profile, now: Profile) -> Figure:
    """Both length distributions, as shares, on an axis of powers of two."""
    figure, axis = axes(9.4, 2.6)
    seen = [k for k in range(len(now.lengths)) if now.lengths[k] or before.lengths[k]]
    first, last = seen[0], seen[-1] + 1
    edges = [2 ** (k / 2) for k in range(first, last + 1)]
    for profile, colour, name in ((before, GREY, "before"), (now, BLUE, "now")):
        shares = [count / max(1, profile.records) for count in profile.lengths[first:last]]
        axis.stairs(shares, edges, color=colour, fill=name == "before", alpha=0.5 if name == "before" else 1, linewidth=1.6, label=name)
    axis.set_xscale("log", base=2)
    axis.xaxis.set_major_formatter(lambda value, _: f"{value:.0f}")
    axis.set(xlabel="characters", ylabel="share of records", xlim=(edges[0], edges[-1]))
    axis.legend(frameon=False)
    return figure


def moved(before: Profile, now: Profile) -> list[tuple[str, float, float]]:
    """The words whose share changed most: word, share before, share now."""
    pairs = [(word, before.words.get(word, 0.0), now.words.get(word, 0.0)) for word in before.words.keys() | now.words.keys()]
    return sorted(pairs, key=lambda p: (-abs(p[2] - p[1]), p[0]))[:WORDS]


def slices(facts: Facts) -> list[dict[str, Any]]:
    """The largest slices: records, share, and the share of the training records before and now."""
    total = sum(facts.records.values())
    found = []
    for name, count in facts.slices.most_common(SLICES):
        then = facts.before.slices.get(name, 0) / max(1, facts.before.records) if facts.before else None
        found.append({"name": name, "records": count, "share": count / total, "then": then})
    return found
