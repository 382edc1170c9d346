"""The paired comparison of two models on the same examples: gains, and bootstrap intervals over examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

METRICS = ("log_loss", "perplexity", "rouge_l", "exact_match")


@dataclass(frozen=True)
class Comparison:
    """One metric of both models; a positive gain means the challenger is better."""

    champion: float
    challenger: float
    gain: float
    low: float
    high: float
    examples: int

    def text(self, metric: str) -> str:
        """In words, for a reason that a person reads."""
        return f"{metric} {self.champion:.4g} → {self.challenger:.4g}, gain {self.gain:+.4f} [{self.low:+.4f}, {self.high:+.4f}]"


def compare(scores: pd.DataFrame, metric: str, confidence: float, resamples: int, seed: int) -> Comparison | None:
    """Compare `champion` with `challenger` (column `model`) on the examples both have a score for.

    log_loss is nats a token, weighted by tokens; perplexity its exponential; the others are means over examples in [0, 1].
    Returns None when no example has that score.
    """
    import numpy as np
    from scipy.stats import bootstrap

    column = "loss" if metric in ("log_loss", "perplexity") else metric
    wide = scores.pivot(index="id", columns="model", values=column).dropna().sort_index()
    if wide.empty:
        return None
    tokens = scores[scores["model"] == "champion"].set_index("id").loc[wide.index, "tokens"].to_numpy(float)
    weights = tokens if column == "loss" else np.ones(len(wide))
    old, new = wide["champion"].to_numpy(float), wide["challenger"].to_numpy(float)

    def value(sums: Any, weight: Any, axis: int = -1) -> np.ndarray:
        mean = np.sum(sums, axis=axis) / np.sum(weight, axis=axis)
        return np.exp(mean) if metric == "perplexity" else mean

    def gain(a: Any, b: Any, weight: Any, axis: int = -1) -> np.ndarray:
        difference = value(b, weight, axis) - value(a, weight, axis)
        return -difference if column == "loss" else difference

    data = (old, new, weights)
    if len(wide) < 2 or np.array_equal(old, new):
        low = high = float(gain(*data))
    else:
        interval = bootstrap(
            data, gain, paired=True, vectorized=True, confidence_level=confidence, n_resamples=resamples, method="percentile", rng=np.random.default_rng(seed)
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    return Comparison(float(value(old, weights)), float(value(new, weights)), float(gain(*data)), low, high, len(wide))
