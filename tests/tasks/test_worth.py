import json
import random

import pytest

from flywheel import manifest, registry, spend
from flywheel.config import Train
from flywheel.errors import DataError
from flywheel.manifest import Cost
from tasks import clean, ingest, register, rollout, tokenize, train, worth
from tests.tasks.conftest import rows


def sequences(count, seed):
    dice = random.Random(seed)
    return [[dice.randrange(500) for _ in range(30)] for _ in range(count)]


def test_too_little_and_too_like_what_is_known():
    learned, new = sequences(50, 1), sequences(10, 2)
    assert worth.too_little(new, learned, Train()) == ""
    assert "7 new examples, fewer than" in worth.too_little(new[:7], learned, Train())
    again = [[*ids[:-1], 7] for ids in learned[:6]]  # one token of thirty differs
    assert worth.known([*new, *again], learned, 0.8) == 6 and worth.known(again, learned, 0.99) == 0
    assert "6 of 10 new examples are nearly what was learned" in worth.too_little([*new[:4], *again], learned, Train())


def test_budgets():
    conf = Train(weekly_gpu_hours=2, weekly_money=5)
    assert worth.budget_spent(Cost(gpu_seconds=7199, money=4.99), conf) == ""
    assert "2 GPU-hours are spent" in worth.budget_spent(Cost(gpu_seconds=7200), conf)
    assert "5 USD are spent" in worth.budget_spent(Cost(money=5), conf)
    assert worth.budget_spent(Cost(gpu_seconds=1e9, money=1e9), Train()) == ""


def test_a_turn_that_cannot_pay_is_skipped_with_its_reason(wheel, home):
    first = wheel("one")
    wheel("one", stages=(register, rollout))
    assert registry.champion().version == 1 and spend.this_week().cpu_seconds > 0
    (home / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in [*rows(240), {"instruction": "What else?", "output": "Nothing."}]))
    run = wheel("two", stages=(ingest, clean, tokenize, train))
    done = manifest.read_for(run, "train")
    assert done.outcome == "skipped" and "new examples, fewer than train.min_new_examples (8)" in done.reason
    run = wheel("three", "train.start=base", "train.weekly_money=0.000001", stages=(ingest, clean, tokenize, train))
    assert "are spent" in manifest.read_for(run, "train").reason
    assert manifest.read_for(first, "train").outcome == "done"


def test_a_budget_that_runs_out_stops_the_training(wheel):
    stages = (ingest, clean, tokenize)
    wheel("one", stages=stages)
    left = spend.this_week().money + 1e-5
    with pytest.raises(DataError, match="stopped at step"):
        wheel("one", f"train.weekly_money={left}", "train.epochs=500", "train.checkpoint_seconds=0.01", stages=(train,))
