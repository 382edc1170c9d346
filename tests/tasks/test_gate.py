"""Each rule on scores made for it: it must be able to refuse, and to let pass."""

import numpy as np
import pandas as pd
import pytest

from flywheel.config import Gate
from flywheel.errors import DataError
from tasks.gate import close, decide, needs_approval, paragraph
from tasks.paired import pairs
from tasks.rules import Evidence, alpha, apply

ROLES = {"heldout": "heldout", "safety": "safety", "regression": "regression", "general": "general", "mine": "own"}


def side(model, losses, *, suite="heldout", tokens=20, slices="all", **columns):
    n = len(losses)
    base = {"suite": suite, "slice": slices, "model": model, "id": [f"{suite}{i:05d}" for i in range(n)], "check": "", "tokens": tokens, "passed": np.nan}
    return pd.DataFrame({**base, "loss": np.asarray(losses, float) * tokens, "rouge_l": np.nan, **columns})


def two(old, new, **columns):
    return pd.concat([side("champion", old, **columns), side("challenger", new, **columns)], ignore_index=True)


def answers(suite, old, new, column="passed", **columns):
    tables = [side(m, np.zeros(len(v)), suite=suite, tokens=0, **{**columns, column: v}) for m, v in (("champion", old), ("challenger", new))]
    return pd.concat(tables, ignore_index=True)


def judge(*tables, facts=None, **conf):
    rules = apply(Evidence(pd.concat(tables, ignore_index=True), ROLES, facts or {}), Gate(**conf))
    verdict, reason = decide(rules)
    return verdict, {r.name for r in rules if r.outcome in ("refuse", "hold")}, reason


@pytest.fixture
def losses():
    return np.random.default_rng(0).normal(3, 0.5, 120)


@pytest.fixture
def better(losses):
    return two(losses, losses - 0.1 + np.random.default_rng(1).normal(0, 0.1, 120))


def test_better_equal_and_worse(losses, better):
    noise = np.random.default_rng(2).normal(0, 0.1, 120)
    assert judge(better)[:2] == ("promote", set())
    held = judge(two(losses, losses - 0.005 + noise))
    assert held[:2] == ("hold", {"primary"})
    worse = judge(two(losses, losses + 0.2 + noise))
    assert worse[0] == "refuse" and {"margin.log_loss"} <= worse[1] and "worse by more than 0.02" in worse[2]


def test_a_hold_says_what_it_would_need(losses):
    noise = np.random.default_rng(3).normal(0, 0.1, 120)
    table = two(losses, losses - 0.02 + noise)
    verdict, _, reason = judge(table)
    needed = int(reason.split("about ")[1].split()[0])
    assert verdict == "hold" and needed > 120
    copies = -(-needed // 120)
    assert judge(two(np.tile(losses, copies), np.tile(losses - 0.02 + noise, copies)))[0] == "promote"


def test_a_gain_below_the_smallest_useful_one_is_held(losses, better):
    assert judge(better, min_gain=0.09)[0] == "hold"
    assert judge(two(losses, losses))[0] == "hold"


def test_a_years_nights_share_the_error(losses):
    assert alpha(Gate()) == pytest.approx(0.05 / 500)
    noise = np.random.default_rng(4).normal(0, 0.1, 120)
    table = two(losses, losses - 0.025 + noise)  # convincing for one night, not for a year of them
    assert judge(table, turns_a_year=1)[0] == "promote" and judge(table)[0] == "hold"


def test_few_examples_never_promote():
    assert judge(two([3.0], [1.0]))[0] == "hold"
    assert judge(two([3.0] * 8, [1.0] * 8))[0] == "hold"  # eight coins that fall alike: 1 in 256
    assert judge(two([3.0] * 30, [1.0] * 30))[0] == "promote"


def test_broken_scores_are_a_sentence(losses):
    table = two(losses, losses - 0.1)
    table.loc[table["model"].eq("challenger") & table["id"].eq("heldout00003"), "loss"] = np.nan
    with pytest.raises(DataError, match="1 examples have no finite log_loss"):
        judge(table)
    with pytest.raises(DataError, match="twice"):
        judge(pd.concat([better_twice := two(losses, losses), better_twice.tail(1)]))
    with pytest.raises(DataError, match="finite"):
        judge(two(losses, losses).iloc[:-1])


@pytest.mark.parametrize(
    ("facts", "rule"),
    [
        ({"integrity": "adapter_model.safetensors cannot be read"}, "integrity"),
        ({"parity": ["3 of 80 prompts are not what the server writes"]}, "parity"),
        ({"contaminated": ["abc"]}, "decontamination"),
    ],
)
def test_facts_refuse(better, facts, rule):
    verdict, broken, _ = judge(better, facts=facts)
    assert verdict == "refuse" and broken == {rule}


def test_cost_and_latency(better):
    assert judge(better, facts={"money": 3.0}, max_cost=2)[:2] == ("refuse", {"cost"})
    assert judge(better, facts={"latency_ratio": 1.6}, max_latency=1.5)[:2] == ("refuse", {"latency"})
    assert judge(better, facts={"money": 1.0, "latency_ratio": 1.1}, max_cost=2, max_latency=1.5)[0] == "promote"


def test_safety(better):
    def probes(old, new, check, kind="injection"):
        return answers("safety", old, new, check=check, slices=kind)

    for check, rule in (("forbidden", "safety.forbidden"), ("refuse", "safety.refusals")):
        assert judge(better, probes([1] * 10, [1] * 8 + [0] * 2, check))[1] == {rule}
        assert judge(better, probes([1] * 10, [1] * 9 + [0], check))[0] == "promote"
        assert judge(better, probes([1] * 10, [1] * 9 + [0], check), safety_margin=0)[1] == {rule}
        assert judge(better, probes([1, 0, 0], [1, 0, 0], check))[0] == "promote"  # no worse than before
    assert judge(better, probes([0, 1], [0, 1], "forbidden", "canaries"))[1] == {"safety.canaries"}  # never told, by whomever before


def test_a_fixed_failure_that_comes_back_refuses(better):
    assert judge(better, answers("regression", [0.9, 0.6], [0.9, 0.4], "rouge_l"))[1] == {"regression"}
    assert judge(better, answers("regression", [0.9, 0.4], [0.6, 0.3], "rouge_l"))[0] == "promote"
    assert judge(better, answers("regression", [1, 1], [1, 0]))[1] == {"regression"}


def test_one_bad_slice_refuses_and_a_small_one_is_only_shown(losses):
    bad = np.arange(120) < 30
    new = losses - 0.15 + np.where(bad, 0.35, 0.0) + np.random.default_rng(5).normal(0, 0.1, 120)
    names = np.where(bad, "methods", "functions")
    assert judge(two(losses, new, slices=names))[:2] == ("refuse", {"slice.heldout/methods"})
    assert judge(two(losses, new, slices=names), slice_examples=31)[0] == "promote"


def test_forgetting(better, losses):
    noise = np.random.default_rng(6).normal(0, 0.05, 120)
    assert judge(better, two(losses, losses + 0.1 + noise, suite="general"))[0] == "promote"
    assert judge(better, two(losses, losses + 0.5 + noise, suite="general"))[:2] == ("refuse", {"general"})
    few = two(losses[:4], losses[:4] + np.array([0.0, 0.4, 0.1, 0.3]), suite="general")
    assert judge(better, few)[:2] == ("hold", {"general"})  # not shown to be kept


def test_perplexity_weighs_tokens_and_the_order_of_rows_does_not_matter(better):
    assert pairs(better, "log_loss").compare() == pairs(better.sample(frac=1, random_state=1), "log_loss").compare()
    table = two([1.0, 3.0], [1.0, 3.0])
    table.loc[table["id"] == "heldout00001", ["loss", "tokens"]] *= 3
    assert pairs(table, "log_loss").compare().champion == pytest.approx((20 + 180) / 80)
    assert pairs(table, "perplexity").compare().champion == pytest.approx(np.exp(2.5))


def test_the_error_is_the_bootstraps(better):
    from scipy.stats import bootstrap

    rng = np.random.default_rng(7)
    better["tokens"] = np.tile(rng.integers(5, 60, 120), 2)
    better["loss"] = better["loss"] / 20 * better["tokens"]
    for metric, transform in (("log_loss", lambda x: x), ("perplexity", np.exp)):
        found = pairs(better, metric)

        def gain(a, b, w, axis=-1, transform=transform):
            return transform(a.sum(axis) / w.sum(axis)) - transform(b.sum(axis) / w.sum(axis))

        data = (found.champion, found.challenger, found.weights)
        reference = bootstrap(data, gain, paired=True, vectorized=True, n_resamples=4000, method="percentile", rng=rng).standard_error
        assert found.compare().error == pytest.approx(reference, rel=0.06)
        assert found.compare().gain == pytest.approx(gain(*data))


def test_approval_by_policy(losses, better):
    rules = apply(Evidence(better, ROLES), Gate())
    assert not needs_approval("promote", rules, Gate())
    assert needs_approval("promote", rules, Gate(approval="always")) and not needs_approval("hold", rules, Gate(approval="always"))
    assert not close(rules, Gate())
    noise = np.random.default_rng(8).normal(0, 0.1, 120)
    narrow = apply(Evidence(two(losses, losses - 0.04 + noise), ROLES), Gate())
    assert decide(narrow)[0] == "promote" and needs_approval("promote", narrow, Gate(approval="close"))


def test_the_paragraph_names_what_a_manager_asks(better, losses):
    rules = apply(Evidence(better, ROLES), Gate())
    text = paragraph("promote", rules, Gate(), "version 3")
    assert "replaces version 3" in text and "500 turns" in text and "one in" in text
    refused = apply(Evidence(better, ROLES, {"contaminated": ["q1"]}), Gate())
    assert "1 suite questions were trained on, such as q1" in paragraph("refuse", refused, Gate(), "version 3")
