"""The paired comparison of two models on the same examples: the gain, and how sure one may be of it.

A score is a weighted mean over examples (perplexity: its exponential). The standard error of the difference of two such means
comes from each example's own contribution to it (the delta method), and the ratio of gain to error is held against Student's t:
a closed form, so that the same scores give the same verdict in microseconds, on every machine.
Source: Deng, Knoblich and Lu, Applying the Delta Method in Metric Analytics, 2018.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flywheel.errors import DataError
from tasks.metrics import METRICS, Metric

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd


@dataclass(frozen=True)
class Comparison:
    """One metric of both models on the same examples; a positive gain means that the challenger is better."""

    metric: str
    champion: float
    challenger: float
    gain: float
    error: float
    examples: int

    def p_better(self, than: float = 0.0) -> float:
        """The chance of such a gain, or a larger one, if the true gain were only `than` (one-sided p-value)."""
        from scipy.special import stdtr

        if self.error == 0.0:  # every example says the same: as sure as that many coins that fall alike
            return 0.5**self.examples if self.gain > than else 1.0
        return float(stdtr(self.examples - 1, -(self.gain - than) / self.error))

    def bound(self, confidence: float) -> float:
        """The gain is above this with that confidence (one-sided); `bound(1 - c)` is the one it is below."""
        from scipy.special import stdtrit

        return self.gain - float(stdtrit(self.examples - 1, confidence)) * self.error

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """The two-sided confidence interval of the gain."""
        return self.bound(0.5 + confidence / 2), self.bound(0.5 - confidence / 2)

    def examples_needed(self, alpha: float, than: float = 0.0) -> int | None:
        """How many such examples would show this gain at level `alpha`; None when there is no gain to show."""
        from scipy.special import ndtri

        if self.gain <= than:
            return None
        if self.error == 0.0:
            return math.ceil(-math.log2(alpha))
        return math.ceil(self.examples * (float(ndtri(alpha)) * self.error / (self.gain - than)) ** 2)

    def text(self) -> str:
        """In words, for a reason that a person reads."""
        low, high = self.interval()
        return f"{METRICS[self.metric].label} {self.champion:.4g} → {self.challenger:.4g}, gain {self.gain:+.4f} [{low:+.4f}, {high:+.4f}]"


@dataclass(frozen=True)
class Pairs:
    """One metric of both models on the examples that both have a score for, ordered by id.

    `champion`, `challenger` and `weights` have the shape (examples,); `ids` names them.
    """

    metric: Metric
    ids: np.ndarray
    champion: np.ndarray
    challenger: np.ndarray
    weights: np.ndarray

    @property
    def gains(self) -> np.ndarray:
        """Each example's own gain: positive where the challenger is better."""
        difference = (self.challenger - self.champion) / (self.weights if self.metric.by_token else 1.0)
        return -difference if self.metric.lower else difference

    def compare(self, where: Any = None) -> Comparison | None:
        """Compare on the examples of a boolean mask; None when there are none."""
        import numpy as np

        chosen = slice(None) if where is None else where
        old, new, weights = self.champion[chosen], self.challenger[chosen], self.weights[chosen]
        n, total = len(old), weights.sum()
        if n == 0 or total == 0:
            return None
        # Sums by token are divided by all tokens; means have weight 1.
        mean_old, mean_new = old.sum() / total, new.sum() / total
        value_old, value_new = mean_old, mean_new
        slope_old = slope_new = 1.0
        if self.metric.exponential:
            value_old, value_new = slope_old, slope_new = np.exp(mean_old), np.exp(mean_new)
        influence = (slope_new * (new - mean_new * weights) - slope_old * (old - mean_old * weights)) * (n / total)
        error = float(np.sqrt((influence**2).sum() / (n * (n - 1)))) if n > 1 else math.inf
        gain = float(value_old - value_new if self.metric.lower else value_new - value_old)
        if not math.isfinite(gain):
            raise _broken(self.metric.name, n)
        # What is left of rounding where every example says the same is no error.
        error = 0.0 if error < 1e-12 * max(1.0, abs(value_old)) else error
        return Comparison(self.metric.name, float(value_old), float(value_new), gain, error, n)


def _broken(metric: str, count: int) -> DataError:
    return DataError(
        f"{count} examples have no finite {metric} from one of the models",
        where="evaluate.scores",
        mend="Nothing is promoted on such scores: look at the losses of train, lower train.learning_rate.",
    )


def pairs(scores: pd.DataFrame, metric: str) -> Pairs:
    """The pairs of a metric in a table of scores (columns `id`, `model`, `tokens` and the metric's own).

    An example that was not asked has no score from either model and is left out.
    Raises DataError when a score is NaN, infinite or only one model's, or an id stands twice.
    """
    import numpy as np

    kind = METRICS[metric]
    sides = {name: scores[scores["model"] == name].set_index("id").sort_index() for name in ("champion", "challenger")}
    old, new = sides["champion"], sides["challenger"]
    for name, side in sides.items():
        if side.index.has_duplicates:
            twice = side.index[side.index.duplicated()][0]
            raise DataError(
                f"the example {twice} was scored twice for the {name}", where="evaluate.scores", mend="Give each example of a suite an id of its own."
            )
    if not old.index.equals(new.index):
        raise _broken(metric, len(old.index.symmetric_difference(new.index)))
    values = {name: side[kind.column].to_numpy(float) for name, side in sides.items()}
    finite = np.isfinite(values["champion"]) & np.isfinite(values["challenger"])
    # An answer token always has a loss; an answer may not have been asked for, which leaves both models without a score.
    asked = old["tokens"].to_numpy(float) > 0 if kind.by_token else ~(np.isnan(values["champion"]) & np.isnan(values["challenger"]))
    bad = asked & ~finite
    if kind.optional:
        asked &= finite
    elif bad.any():
        raise _broken(metric, int(bad.sum()))
    weights = old["tokens"].to_numpy(float) if kind.by_token else np.ones(len(old))
    return Pairs(kind, old.index.to_numpy()[asked], values["champion"][asked], values["challenger"][asked], weights[asked])
