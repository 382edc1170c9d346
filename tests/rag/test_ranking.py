"""Against figures worked out by hand."""

from __future__ import annotations

import math

import pytest

from rag.ranking import ndcg, recall, reciprocal_rank


def test_a_ranking_with_the_right_ones_second_and_fourth():
    ranked, right = ["w", "a", "x", "b"], {"a", "b"}
    assert recall(ranked, right, 3) == 0.5 and recall(ranked, right, 4) == 1
    assert reciprocal_rank(ranked, right) == 0.5 and reciprocal_rank(ranked, {"q"}) == 0
    assert ndcg(ranked, right, 4) == pytest.approx((1 / math.log2(3) + 1 / math.log2(5)) / (1 + 1 / math.log2(3)))
    assert ndcg(["a", "a", "a"], {"a"}, 3) == 1 and recall(["a"], {"a", "b", "c"}, 1) == 1
