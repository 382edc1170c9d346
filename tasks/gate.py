"""Decide: promote, hold or refuse, with a reason that names the metric.

    python -m tasks.gate --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

refuse: some metric is worse by more than its margin, at the configured confidence. promote: the primary metric is better by
more than `min_gain`, at that confidence. hold: neither is shown. Output: `verdict` (JSON).
"""

from __future__ import annotations

import json

from flywheel import stage
from flywheel.config import Gate
from flywheel.errors import DataError
from flywheel.registry import Verdict
from tasks.paired import Comparison, compare


def decide(found: dict[str, Comparison], conf: Gate) -> tuple[Verdict, str]:
    """The verdict and its reason."""
    at = f"at {conf.confidence:.0%} confidence"
    for metric, c in found.items():
        if c.high < -conf.margins.get(metric, 0.0):
            return "refuse", f"{metric} is worse by more than {conf.margins.get(metric, 0.0):g} {at}: {c.text(metric)}"
    primary = found[conf.primary]
    if primary.low > conf.min_gain:
        return "promote", f"{conf.primary} is better {at}: {primary.text(conf.primary)}; no metric is worse beyond its margin"
    return "hold", f"{conf.primary} is not shown to be better {at}: {primary.text(conf.primary)}"


def run(ctx: stage.Context) -> None:
    """Compare every metric that has a margin, and the primary one."""
    import pandas as pd

    conf = ctx.config.gate
    scores = pd.read_parquet(ctx.fetch("evaluate.scores"))
    names = dict.fromkeys([conf.primary, *conf.margins])
    compared = {metric: compare(scores, metric, conf.confidence, conf.resamples, ctx.config.seed) for metric in names}
    found = {metric: c for metric, c in compared.items() if c}
    if conf.primary not in found:
        raise DataError(f"no example has a score for {conf.primary}", where="gate.primary", mend="Choose another, or raise evaluate.generate.")
    verdict, reason = decide(found, conf)
    ctx.say(f"{verdict}: {reason}")
    ctx.path("verdict.json").write_text(json.dumps({"verdict": verdict, "reason": reason}, indent=1))
    ctx.output("verdict", ctx.path("verdict.json"))
    ctx.metrics |= {"verdict": verdict, "reason": reason}


STAGE = stage.Stage("gate", run, needs=("evaluate",))
if __name__ == "__main__":
    stage.main(STAGE)
