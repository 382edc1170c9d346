"""How good a ranking is: recall@k, mean reciprocal rank, nDCG. Each takes the ids as ranked, best first, and the ids that are right."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence


def recall(ranked: Sequence[str], right: Collection[str], k: int) -> float:
    """Share of what is right among the first k; of at most k, so that 1 can be reached."""
    return len(set(ranked[:k]) & set(right)) / min(len(right), k)


def reciprocal_rank(ranked: Sequence[str], right: Collection[str]) -> float:
    """1 over the place of the first right one; 0 when there is none."""
    return next((1 / place for place, found in enumerate(ranked, 1) if found in right), 0.0)


def ndcg(ranked: Sequence[str], right: Collection[str], k: int) -> float:
    """Normalised discounted cumulative gain of the first k, each right one worth the same."""
    gain = sum(1 / math.log2(place + 1) for place, found in enumerate(dict.fromkeys(ranked[:k]), 1) if found in right)
    return gain / sum(1 / math.log2(place + 1) for place in range(1, min(len(right), k) + 1))
