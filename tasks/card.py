"""The model card: written from the manifests, in the layout that model hubs read."""

from __future__ import annotations

import json
from typing import Any

from flywheel import stage
from flywheel.registry import Version
from flywheel.settings import settings
from tasks.metrics import METRICS


def write(ctx: stage.Context, version: Version, report: dict[str, Any]) -> str:
    """The whole card, as Markdown."""
    conf = ctx.config
    train = ctx.upstream("train")
    verdict = json.loads(ctx.fetch("gate.verdict").read_bytes())
    champion = f"version {version.reference}" if version.reference else "the base model"
    sources = sorted({(s.label, s.licence, s.consent) for s in conf.ingest.sources})
    return f"""---
base_model: {version.base}
library_name: peft
tags: [flywheel, {conf.train.method}]
---
# {settings().model_name}

An adapter of {version.base}, trained from {f"version {version.parent}" if version.parent else "the base model"} by run `{version.run_dir}`.

**Verdict: {version.verdict}.** {verdict["paragraph"]}

## Data
Data set `{version.dataset[:16]}`: {train.metrics.get("new_examples")} new and {train.metrics.get("replayed")} earlier examples.

{table(("source", "licence", "consent"), sources)}

## Evaluation
Frozen suites: {", ".join(f"{count} {name}" for name, count in report["suites"].items())}. Champion: {champion}.

{table(("metric", "champion", "this model", "gain", "95 % interval"), [figures(name, m) for name, m in report["metrics"].items()])}

### Rules of the gate
{table(("rule", "outcome", "found"), [(rule["name"], rule["outcome"], rule["text"]) for rule in verdict["rules"]])}

## Training
`{json.dumps(conf.train.model_dump())}`

Code `{version.code_digest[:16]}`, image `{version.image or "none: run as a local process"}`. {spent(version, report, conf.gate.primary)}

## Limits
{conf.register_.limits} Contact: {conf.register_.contact}.
"""


def figures(name: str, m: dict[str, Any]) -> tuple[str, ...]:
    """A metric's row."""
    low, high = m["interval"]
    return METRICS[name].label, f"{m['champion']:.4g}", f"{m['challenger']:.4g}", f"{m['gain']:+.4f}", f"{low:+.4f} to {high:+.4f}"


def spent(version: Version, report: dict[str, Any], primary: str) -> str:
    """What the turn cost, and what a hundredth of the primary metric cost."""
    cost = version.cost
    text = f"The turn took {cost.cpu_seconds:.0f} CPU-seconds and {cost.gpu_seconds / 3600:.2f} GPU-hours: {cost.money:.4f} {cost.currency}"
    gain = report["metrics"].get(primary, {}).get("gain", 0.0)
    return f"{text}, {cost.money / (100 * gain):.4f} for each 0.01 of {METRICS[primary].label} gained." if gain > 0 else f"{text}."


def table(head: tuple[str, ...], rows: Any) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)
