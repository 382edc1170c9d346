"""What the gate promises, simulated: wrong promotions a year, power, refused slices, and its own cost.  make bench NAME=gate

1. 1,000 years of 365 nights with a challenger no better than the champion, for three kinds of scores: the share of years with
   any promotion, beside the usual gate (a 95 % interval of the mean, every night).
2. A challenger that answers 5 points more of 400 questions, at a discordance of 6 % (5.5 % newly right, 0.5 % newly wrong): promoted
   that night or the next. Which questions are easily won stays the same from night to night.
3. A gain of 5 points overall and a loss of 8 on a slice of 60, at a discordance of 9 % in that slice: refused.
4. 10,000 examples in 50 slices: CPU-seconds of the whole gate.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pandas as pd
from rich.progress import track

from flywheel.config import Gate
from tasks.gate import decide
from tasks.metrics import METRICS
from tasks.paired import Comparison, Pairs
from tasks.rules import Evidence, alpha, apply

YEARS, NIGHTS, EXAMPLES, REPEATS = 1000, 365, 400, 500
ACCURACY = Gate(primary="exact_match", margins={"exact_match": 0.05})
SEED = 20261124


def scores_of_the_same(kind: str, rng: np.random.Generator) -> Pairs:
    """A night's scores of two equally good models. Heavy tails are Student's t with 3 degrees of freedom, scaled by tokens."""
    ids, ones = np.arange(EXAMPLES), np.ones(EXAMPLES)
    if kind == "answers right or wrong":
        u, right = rng.random(EXAMPLES), np.full(EXAMPLES, 0.6)
        return Pairs(METRICS["exact_match"], ids, right, right + np.where(u < 0.03, 1.0, np.where(u > 0.97, -1.0, 0.0)), ones)
    tokens = rng.integers(5, 80, EXAMPLES).astype(float)
    noise = rng.normal(0, 0.3, EXAMPLES) if kind == "log loss" else rng.standard_t(3, EXAMPLES) * 0.2
    return Pairs(METRICS["log_loss"], ids, 3 * tokens, (3 + noise) * tokens, tokens)


def usual_gate(c: Comparison) -> bool:
    """What most pipelines do: promote when a nightly 95 % interval of the gain is above zero."""
    return c.gain - 1.96 * c.error > 0


def null_years(kind: str) -> tuple[float, float]:
    """Share of years with a wrong promotion: ours, the usual gate's."""
    rng, conf = np.random.default_rng(SEED), Gate()
    level = alpha(conf)
    ours = usual = 0
    for _ in track(range(YEARS), description=f"1,000 years, {kind}", transient=True):
        wrong = [False, False]
        for _ in range(NIGHTS):
            c = scores_of_the_same(kind, rng).compare()
            assert c is not None
            wrong = [wrong[0] or c.p_better(conf.min_gain) <= level, wrong[1] or usual_gate(c)]
        ours, usual = ours + wrong[0], usual + wrong[1]
    return ours / YEARS, usual / YEARS


def night(won: np.ndarray, lost: np.ndarray, slices: np.ndarray, rng: np.random.Generator) -> Evidence:
    """Right and wrong answers of both models, given each question's chance to be newly won or lost."""
    n, u = len(won), rng.random(len(won))
    old = np.where(u < won, 0.0, np.where(u > 1 - lost, 1.0, (rng.random(n) < 0.6).astype(float)))
    new = np.where(u < won, 1.0, np.where(u > 1 - lost, 0.0, old))
    common = {"suite": "heldout", "slice": slices, "id": np.arange(n).astype(str), "tokens": 20, "check": "", "passed": np.nan, "rouge_l": np.nan}
    table = pd.concat([pd.DataFrame({**common, "model": m, "exact_match": v}) for m, v in (("champion", old), ("challenger", new))])
    return Evidence(table, {"heldout": "heldout", "regression": "regression"})


def verdict(evidence: Evidence) -> str:
    """What the whole gate says."""
    return decide(apply(evidence, ACCURACY))[0]


def power() -> tuple[float, float]:
    """Share of true gains promoted the first night, and the first or the second."""
    rng = np.random.default_rng(SEED + 1)
    first = either = 0
    slices = np.repeat(["a", "b", "c", "d"], EXAMPLES // 4)
    for _ in track(range(REPEATS), description="a true gain of 5 points", transient=True):
        won, lost = rng.beta(0.5, 0.5 * (1 / 0.055 - 1), EXAMPLES), np.full(EXAMPLES, 0.005)
        nights = [verdict(night(won, lost, slices, rng)) == "promote" for _ in range(2)]
        first, either = first + nights[0], either + any(nights)
    return first / REPEATS, either / REPEATS


def slice_loss() -> float:
    """Share of challengers refused that gain 5 points overall and lose 8 on a slice of 60."""
    rng = np.random.default_rng(SEED + 2)
    small = np.arange(EXAMPLES) < 60
    rest = (0.05 * EXAMPLES + 0.08 * 60) / (EXAMPLES - 60)  # what the others must gain
    won, lost = np.where(small, 0.005, rest + 0.005), np.where(small, 0.085, 0.005)
    slices = np.where(small, "small", "rest")
    outcomes = [verdict(night(won, lost, slices, rng)) for _ in track(range(REPEATS), description="a slice that loses 8 points", transient=True)]
    return outcomes.count("refuse") / REPEATS


def cost() -> float:
    """CPU-seconds of every rule on 10,000 examples in 50 slices."""
    rng, n = np.random.default_rng(SEED + 3), 10_000
    common = {"suite": "heldout", "slice": rng.integers(0, 50, n).astype(str), "id": [f"{i:032d}" for i in range(n)], "check": "", "passed": np.nan}
    tokens = rng.integers(5, 80, n)
    sides = []
    for model in ("champion", "challenger"):
        means = {m.column: rng.random(n) for m in METRICS.values() if not m.by_token}
        sides.append(pd.DataFrame({**means, **common, "model": model, "tokens": tokens, "loss": rng.normal(3, 0.3, n) * tokens, "tokens_right": tokens // 2}))
    evidence = Evidence(pd.concat(sides), {"heldout": "heldout", "regression": "regression"})
    began = time.process_time()
    decide(apply(evidence, Gate()))
    return time.process_time() - began


def main() -> int:
    """Print what was found, then the JSON; 1 when a goal is missed."""
    kinds = ("log loss", "log loss with heavy tails", "answers right or wrong")
    wrong = {kind: null_years(kind) for kind in kinds}
    for kind, (ours, usual) in wrong.items():
        print(f"years with a wrong promotion, {kind}: {ours:.1%} (the usual nightly 95 % gate: {usual:.1%})", flush=True)
    first, either = power()
    print(f"a true gain of 5 points at n = 400: promoted the first night {first:.1%}, that night or the next {either:.1%}", flush=True)
    refused = slice_loss()
    print(f"+5 points overall, -8 on a slice of 60: refused {refused:.1%}", flush=True)
    seconds = cost()
    print(f"10,000 examples in 50 slices: {seconds:.2f} CPU-seconds", flush=True)
    worst = max(ours for ours, _ in wrong.values())
    met = worst <= 0.05 and either >= 0.8 and refused >= 0.8 and seconds < 5
    ours = {"wrong_years": worst, "promoted_in_two_nights": either, "slice_refused": refused, "cpu_seconds_10000x50": round(seconds, 3)}
    peers = {"nightly 95 % interval": {"wrong_years": max(usual for _, usual in wrong.values())}}
    goal = "wrong_years <= 0.05, promoted_in_two_nights >= 0.8, slice_refused >= 0.8, cpu_seconds_10000x50 < 5"
    print(json.dumps({"name": "gate", "ours": ours, "peers": peers, "ratios": {}, "goal": goal, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
