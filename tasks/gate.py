"""Decide: promote, hold or refuse, with each rule's figure and limit, and a paragraph that a manager understands.

    python -m tasks.gate --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

refuse: a rule is broken. hold: nothing is broken, and nothing is shown to be better. promote: better, and nothing broken.
docs/gate.md says how the figures were chosen. Outputs: `verdict` (JSON) and `page` (the report, HTML).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from flywheel import stage
from flywheel.config import Gate
from flywheel.registry import Verdict
from tasks.rules import Evidence, Rule, alpha, apply


def decide(rules: Sequence[Rule]) -> tuple[Verdict, str]:
    """The verdict and its reason in a line; every broken rule is named."""
    for outcome in ("refuse", "hold"):
        broken = [rule for rule in rules if rule.outcome == outcome]
        if broken:
            return outcome, "; ".join(f"{rule.name}: {rule.text}" for rule in broken)
    won = next(rule for rule in rules if rule.name == "primary")
    return "promote", f"{won.text}; every rule is kept"


def close(rules: Sequence[Rule], conf: Gate) -> bool:
    """Whether the evidence is less than `gate.close` times what is needed, on the scale of the normal distribution."""
    from scipy.special import ndtri

    won = next((rule for rule in rules if rule.name == "primary" and rule.figure is not None), None)
    return won is None or float(ndtri(won.figure)) > conf.close * float(ndtri(alpha(conf)))


def needs_approval(verdict: Verdict, rules: Sequence[Rule], conf: Gate) -> bool:
    """Whether a person must agree before this version is rolled out."""
    return verdict == "promote" and (conf.approval == "always" or (conf.approval == "close" and close(rules, conf)))


def paragraph(verdict: Verdict, rules: Sequence[Rule], conf: Gate, champion: str) -> str:
    """The verdict for someone who knows neither statistics nor the code."""
    kept = sum(rule.outcome == "pass" for rule in rules)
    skipped = sum(rule.outcome == "skip" for rule in rules)
    won = next((rule for rule in rules if rule.name == "primary"), None)
    luck = f"{conf.false_promotions:.0%} in a whole year of {conf.turns_a_year} turns"
    checked = f"{kept} rules were kept" + (f" and {skipped} could not be judged" if skipped else "")
    if verdict == "promote":
        assert won is not None and won.figure is not None
        odds = "less than one in a million" if won.figure < 1e-6 else f"one in {1 / won.figure:,.0f}"
        return (
            f"The new version replaces {champion}. On questions that neither of them had seen, it is better: {won.text}. "
            f"A difference like this would come from luck {odds} times; we ask for one in {1 / alpha(conf):,.0f}, so that the chance of even one "
            f"wrong promotion stays below {luck}. {checked}."
        )
    broken = [rule for rule in rules if rule.outcome == verdict]
    names = "; ".join(f"{rule.name.replace('.', ' ')}: {rule.text}" for rule in broken)
    if verdict == "refuse":
        return f"The new version is refused and {champion} stays. Broken: {names}. It is kept in the registry for the audit and can not be rolled out."
    return f"Nothing is wrong with the new version, but it is not shown to be better, so {champion} stays: {names}. {checked}."


def run(ctx: stage.Context) -> None:
    """Apply every rule, decide, explain."""
    import pandas as pd

    from tasks import report

    conf = ctx.config.gate
    measured = json.loads(ctx.fetch("evaluate.report").read_bytes())
    scores = pd.read_parquet(ctx.fetch("evaluate.scores")) if "evaluate.scores" in ctx.inputs else None
    same = json.loads(ctx.fetch("parity.findings").read_bytes())
    evidence = Evidence(scores, measured["roles"], measured["facts"] | {"parity": same})
    rules = apply(evidence, conf)
    verdict, reason = decide(rules)
    champion = f"version {measured['champion']}" if measured["champion"] else "the base model"
    found: dict[str, Any] = {
        "verdict": verdict,
        "reason": reason,
        "paragraph": paragraph(verdict, rules, conf, champion),
        "approval": "needed" if needs_approval(verdict, rules, conf) else "not needed",
        "alpha": alpha(conf),
        "rules": [asdict(rule) for rule in rules],
    }
    for rule in rules:
        ctx.say(f"  {rule.outcome:7} {rule.name}: {rule.text}")
    ctx.say(f"{verdict}. {found['paragraph']}")
    ctx.path("verdict.json").write_text(json.dumps(found, indent=1))
    ctx.output("verdict", ctx.path("verdict.json"))
    ctx.path("report.html").write_text(report.page(evidence, measured, found, conf, ctx.run_dir.rsplit("/", 1)[-1]))
    ctx.output("page", ctx.path("report.html"))
    ctx.metrics |= {"verdict": verdict, "reason": reason, "approval": found["approval"]}


STAGE = stage.Stage("gate", run, needs=("evaluate", "parity"))
if __name__ == "__main__":
    stage.main(STAGE)
