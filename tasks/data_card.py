"""The data card: what a data set version holds and where it comes from, in the layout that data hubs read."""

from __future__ import annotations

from typing import Any

import yaml

from tasks.card import table
from tasks.data_facts import Facts

BLOCKS = "▁▂▃▄▅▆▇█"


def write(facts: Facts) -> str:
    """The whole card, as Markdown."""
    total = sum(facts.records.values())
    head = {"license": sorted({s.licence for s in facts.sources}), "tags": ["flywheel"], "size_categories": [size(total)]}
    lengths = [(name, *(f"{facts.lengths[name][q]:.0f}" for q in ("min", "median", "p95", "p99", "max"))) for name in ("prompt", "answer", "both")]
    return f"""---
{yaml.safe_dump(head, sort_keys=False).strip()}
---
# Data set {facts.id[:12]}

{total} records: {", ".join(f"{count} {split}" for split, count in facts.records.items())}; {", ".join(f"{count} {kind}" for kind, count in facts.kinds.items())}.
Version `{facts.id}`, made by run `{facts.run}`{f", compared with version `{facts.reference[:12]}`" if facts.reference else ""}.

## Sources
{table(("source", "licence", "ground of consent", "records"), [(s.name, s.licence, s.consent, s.records) for s in facts.sources])}

## Steps
{table(("step", "in", "changed", "rejected", "out"), [(s["step"].replace("_", " "), s["in"], s["changed"], s["rejected"], s["out"]) for s in facts.funnel])}

What was rejected is in the quarantine files beside the outputs of `ingest` and `clean`, each with its reason.

## Personal data
{personal_data(facts)}

## Checks
{table(("check", "outcome", "found"), [(f.name.replace("_", " "), f.outcome, f.text) for f in facts.findings])}

## Slices
{table(("slice", "records", "share"), [(name, count, f"{count / total:.1%}") for name, count in facts.slices.most_common(30)])}

## Lengths
In tokens of {facts.model}; {facts.lengths["over_limit"]:.1%} of the training records are longer than the limit of {facts.lengths["limit"]}.

{table(("", "min", "median", "p95", "p99", "max"), lengths)}

`{spark(facts.lengths["both"]["counts"])}` prompt and answer together, 0 to {facts.lengths["edges"][-1]:.0f} tokens

## Examples
{examples(facts)}
"""


def personal_data(facts: Facts) -> str:
    """What was done about personal data: the cleaning's settings for it, in its own words."""
    found = settings_of(facts.cleaning, "personal")
    if not found:
        return "No step that masks or drops personal data was configured for this version."
    counts = [s for s in facts.funnel if "personal" in s["step"]]
    done = "; ".join(f"{s['changed']} records masked, {s['rejected']} rejected" for s in counts) or "no step of it ran"
    return f"{done}. Settings:\n\n```yaml\n{yaml.safe_dump(found, sort_keys=False).strip()}\n```"


def settings_of(params: Any, word: str) -> dict[str, Any]:
    """Every setting whose key, or whose own `step` or `name`, has the word in it, wherever it lies."""
    found: dict[str, Any] = {}
    if isinstance(params, dict):
        name = next((str(params[key]) for key in ("step", "name") if word in str(params.get(key, ""))), "")
        if name:
            return {name: params}
        for key, value in params.items():
            found |= {key: value} if word in str(key) else settings_of(value, word)
    elif isinstance(params, list):
        for value in params:
            found |= {value: True} if isinstance(value, str) and word in value else settings_of(value, word)
    return found


def examples(facts: Facts) -> str:
    """Some records as they are."""
    shown = [part for e in facts.samples for part in (f"**{quoted(e.instruction)}**", quoted(e.input), f"> {quoted(e.output)}") if part]
    return "\n\n".join(shown) or "None."


def quoted(text: str, most: int = 400) -> str:
    """A text on one line of Markdown, with nothing in it that Markdown would read."""
    line = " ".join(text.split())
    line = line if len(line) <= most else f"{line[:most]} …"
    return "".join(f"\\{c}" if c in "\\`*_<>#[]|" else c for c in line)


def size(total: int) -> str:
    """The hubs' size category."""
    for limit, name in ((1e3, "n<1K"), (1e4, "1K<n<10K"), (1e5, "10K<n<100K"), (1e6, "100K<n<1M")):
        if total < limit:
            return name
    return "n>1M"


def spark(counts: list[int]) -> str:
    """A histogram in one line of text."""
    top = max(counts, default=0) or 1
    return "".join(BLOCKS[round(count / top * (len(BLOCKS) - 1))] if count else " " for count in counts)
