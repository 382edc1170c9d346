"""The guards of a rollout on made answers: healthy ones pass however often they are looked at, bad ones are found early."""

import math

import numpy as np
import pytest

from flywheel import guards
from flywheel.config import Guards
from flywheel.ledger import Sums


def sums(values):
    return Sums(len(values), float(np.mean(values)), float(np.var(values, ddof=1))) if len(values) > 1 else Sums(len(values), float(sum(values)), 0.0)


def tripped_at(name, ours, theirs, margins=None):
    """After how many answers of the challenger the guard trips, looking after every one; None when never."""
    for n in range(1, len(ours) + 1):
        share = min(len(theirs), n * len(theirs) // len(ours))
        if guards.breach({name: {"challenger": sums(ours[:n]), "champion": sums(theirs[:share])}}, margins or Guards()):
            return n
    return None


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_an_equal_challenger_is_hardly_ever_taken_back_though_looked_at_always(share):
    dice = np.random.default_rng(1)
    margins = Guards(errors=0, refusals=0, thumbs_down=0, latency=1, length=1)  # the worst case: no margin at all
    wrong = 0
    for _ in range(100):
        champion = int(150 * (1 - share) / share)
        wrong += tripped_at("errors", dice.binomial(1, 0.1, 150), dice.binomial(1, 0.1, champion), margins) is not None
        wrong += tripped_at("latency", dice.normal(0, 0.4, 150), dice.normal(0, 0.4, champion), margins) is not None
    assert wrong <= 6  # of 200, where 2 in a hundred were promised at most for these two


@pytest.mark.parametrize(
    ("name", "ours", "theirs", "most"),
    [
        ("errors", lambda d, n: np.ones(n), lambda d, n: np.zeros(n), 10),
        ("errors", lambda d, n: d.binomial(1, 0.3, n), lambda d, n: d.binomial(1, 0.01, n), 100),
        ("refusals", lambda d, n: d.binomial(1, 0.8, n), lambda d, n: d.binomial(1, 0.1, n), 30),
        ("thumbs_down", lambda d, n: d.binomial(1, 0.9, n), lambda d, n: d.binomial(1, 0.2, n), 30),
        ("latency", lambda d, n: d.normal(math.log(3), 0.3, n), lambda d, n: d.normal(0, 0.3, n), 40),
        ("length", lambda d, n: d.normal(-2, 0.5, n), lambda d, n: d.normal(0, 0.5, n), 60),
    ],
)
def test_a_bad_challenger_is_found_within_a_few_answers(name, ours, theirs, most):
    found = []
    for seed in range(10):
        dice = np.random.default_rng(seed)
        found.append(tripped_at(name, ours(dice, 200), theirs(dice, 2000)))
    assert None not in found and max(found) <= most, found


def test_a_breach_is_a_sentence():
    figures = {"errors": {"challenger": Sums(20, 1.0, 0.0), "champion": Sums(200, 0.0, 0.0)}}
    assert guards.breach(figures, Guards()) == "errors: 100.0% of 20, the champion's 0.0% of 200"
    assert guards.breach({"latency": {"challenger": Sums(0), "champion": Sums(0)}}, Guards()) == ""
