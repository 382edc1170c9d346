import numpy as np
import pandas as pd
import pytest

from flywheel.config import Gate
from tasks.gate import decide
from tasks.paired import compare


def scores(old, new, tokens=20):
    def side(model, losses):
        return pd.DataFrame(
            {"id": [f"{i:03d}" for i in range(len(losses))], "model": model, "loss": np.asarray(losses) * tokens, "tokens": tokens, "rouge_l": None}
        )

    return pd.concat([side("champion", old), side("challenger", new)])


def verdict(old, new, **conf):
    found = compare(scores(old, new), "log_loss", 0.95, 1000, 1)
    return decide({"log_loss": found}, Gate(**conf)), found


@pytest.fixture
def losses():
    return np.random.default_rng(0).normal(3, 0.5, 120)


def test_better_equal_and_worse(losses):
    noise = np.random.default_rng(1).normal(0, 0.1, 120)
    (promote, reason), found = verdict(losses, losses - 0.1 + noise)
    assert promote == "promote" and "log_loss" in reason
    assert found.low < 0.1 < found.high
    assert verdict(losses, losses + noise)[0][0] == "hold"
    (refuse, reason), _ = verdict(losses, losses + 0.2 + noise)
    assert refuse == "refuse" and reason.startswith("log_loss is worse")


def test_a_gain_below_the_smallest_useful_one_is_held(losses):
    assert verdict(losses, losses - 0.05, min_gain=0.1)[0][0] == "hold"
    assert verdict(losses, losses.copy())[0][0] == "hold"


def test_the_order_of_rows_does_not_matter_and_tokens_weigh(losses):
    table = scores(losses, losses - 0.1)
    assert compare(table, "log_loss", 0.95, 200, 1) == compare(table.sample(frac=1, random_state=1), "log_loss", 0.95, 200, 1)
    assert compare(table, "rouge_l", 0.95, 200, 1) is None
    two = scores([1.0, 3.0], [1.0, 3.0])
    two.loc[two["id"] == "001", ["loss", "tokens"]] *= 3
    assert compare(two, "log_loss", 0.95, 200, 1).champion == pytest.approx((20 + 180) / 80)


def test_promotions_without_a_difference_are_rare(losses):
    wrong = sum(verdict(losses, losses + np.random.default_rng(seed).normal(0, 0.2, 120))[0][0] == "promote" for seed in range(60))
    assert wrong <= 6  # expected 1.5 of 60 at 95 %, two-sided; 7 or more happen once in a thousand times
