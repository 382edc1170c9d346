"""What a pull request is told of a turn: the verdict, the figures with their intervals, the rules, what it cost, and where to look.

GitHub-flavoured Markdown. Words that come from data or models are escaped: they can neither break the table nor call anybody.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import Any

from flywheel import code
from flywheel.turn import address

LONGEST = 300  # characters of a cell; GitHub takes 65,536 in all
VERDICTS = {"promote": "✅ promote", "hold": "⏸️ hold", "refuse": "⛔ refuse"}


def plain(text: Any) -> str:
    """A text that means nothing to Markdown, on one line."""
    words = " ".join(str(text).split())
    words = words if len(words) <= LONGEST else words[: LONGEST - 1] + "…"
    return "".join(f"&#{ord(c)};" if c in "|`*_[]\\~#" else f"{c}\u2060" if c == "@" else html.escape(c) for c in words)


def table(header: tuple[str, ...], numbers: int, rows: Sequence[tuple[str, ...]]) -> str:
    """A Markdown table whose last columns, so many, are numbers."""
    lines = [header, (*[":--"] * (len(header) - numbers), *["--:"] * numbers), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def of(found: dict[str, Any], run_id: str) -> str:
    """The comment on a turn that reached its gate; `found` is what `flywheel.turn.results` gives."""
    verdict = found["verdict"]
    metrics = []
    for name, m in found["metrics"].items():
        low, high = m["interval"]
        metrics.append((plain(name), f"{m['champion']:.4g}", f"{m['challenger']:.4g}", f"{m['gain']:+.4g}", f"{low:+.4g} … {high:+.4g}", str(m["examples"])))
    parts = [
        f"### {VERDICTS[verdict['verdict']]}",
        "\n\n".join(plain(part) for part in _sentences(verdict["paragraph"])),
        table(("metric", "champion", "challenger", "gain", "95 % interval", "examples"), 5, metrics) if metrics else "",
        rules(verdict["rules"]),
        f"{fate(found)} It cost {found['money']:.3g} {found['currency']} and {sum(found['seconds'].values()) / 60:.0f} minutes of stages.",
        ran(found),
        f"{link('Run in Airflow', address(run_id))} · {link('evaluation report', found['registry_page'] or found['page'])}",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _sentences(text: str) -> list[str]:
    """A text in parts that are short enough to be shown whole."""
    parts = [""]
    for sentence in text.replace(". ", ".\n").splitlines():
        if parts[-1] and len(parts[-1]) + len(sentence) >= LONGEST:
            parts.append("")
        parts[-1] = f"{parts[-1]} {sentence}".strip()
    return parts


def rules(found: list[dict[str, Any]]) -> str:
    """Every rule with its figure and limit, folded away; the broken ones first."""
    ordered = sorted(found, key=lambda rule: ("refuse", "hold", "pass", "skip").index(rule["outcome"]))
    kept = sum(rule["outcome"] == "pass" for rule in found)
    rows = [(plain(r["name"]), r["outcome"], plain(r["text"]), number(r["figure"]), number(r["limit"])) for r in ordered]
    listed = table(("rule", "outcome", "what was found", "figure", "limit"), 2, rows)
    return f"<details><summary>{kept} of {len(found)} rules kept</summary>\n\n{listed}\n\n</details>"


def number(value: float | None) -> str:
    """A figure, or nothing."""
    return "" if value is None else f"{value:.4g}"


def fate(found: dict[str, Any]) -> str:
    """What became of the version."""
    if found["rollout"] == "done":
        return f"Version {found['version']} is the champion now."
    return f"Version {found['version']} is registered and not rolled out: {plain(found['rollout_reason'])}."


def ran(found: dict[str, Any]) -> str:
    """Which code trained it. An installation runs its own images, not the branch under review: that must be seen."""
    image = f", image {plain(found['image'])}" if found["image"] else ""
    if found["code"] == code.digest("tasks.train"):
        return f"Trained with the code of this commit{image}."
    return f"⚠️ Trained with the code of the installation ({found['code'][:12]}{image}), which is not this commit's: only the config is this one's."


def link(text: str, url: str) -> str:
    """A link when the address is one for browsers, else the address itself."""
    return f"[{text}](<{url}>)" if url.startswith(("https://", "http://")) else f"{text}: {plain(url)}"


def without_results(title: str, text: str, run_id: str = "") -> str:
    """The comment on a turn that was not started, failed, was skipped or has not ended."""
    return "\n\n".join([f"### {title}", plain(text), *([link("Run in Airflow", address(run_id))] if run_id else [])]) + "\n"
