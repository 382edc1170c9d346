"""Blind pairs for people, and their choices back into scores and the gate."""

import json

import pandas as pd
import pytest

from flywheel import manifest
from flywheel.errors import ContractError
from flywheel.settings import settings
from tasks import evaluate, gate, preferences


def test_a_pair_is_blind_and_always_the_same():
    pairs = [preferences.blind(str(i), "q", f"old {i}", f"new {i}") for i in range(400)]
    assert pairs == [preferences.blind(str(i), "q", f"old {i}", f"new {i}") for i in range(400)]
    assert 150 < sum(pair["left"].startswith("new") for pair in pairs) < 250


def test_choices_count_for_the_answers_that_were_shown(tmp_path):
    shown = preferences.blind("1", "q", "old", "new")
    better = "left" if shown["left"] == "new" else "right"
    path = tmp_path / "choices.jsonl"
    choices = [{**shown, "choice": better}, {**shown, "choice": "tie", "annotator": 7}, {**shown, "left": "another run's", "choice": better}]
    path.write_text("".join(json.dumps(c) + "\n" for c in choices))
    assert preferences.shares(preferences.read(str(path)), {"1": ("old", "new"), "2": ("a", "b")}) == {"1": 0.75}
    assert preferences.shares(preferences.read(str(path)), {"1": ("new", "old")}) == {"1": 0.25}
    path.write_text(json.dumps(choices))  # Label Studio's JSON_MIN is one list
    assert len(preferences.read(str(path))) == 3
    path.write_text('[{"id": "1", "left": "a", "right": "b", "choice": "the first"}]')
    with pytest.raises(ContractError, match="entry 1: `choice`"):
        preferences.read(str(path))
    with pytest.raises(ContractError, match="no such file"):
        preferences.read(str(tmp_path / "none.json"))


def test_people_who_prefer_the_champion_refuse_the_challenger(wheel, home):
    changes = ("evaluate.generate=40",)
    run = wheel("one", *changes)
    verdict = json.loads(manifest.read_for(run, "gate").outputs["verdict"].fetch(home).read_text())
    assert {r["name"]: r["outcome"] for r in verdict["rules"]}["margin.preference"] == "skip"
    pairs = json.loads(manifest.read_for(run, "evaluate").outputs["comparisons"].fetch(home).read_text())
    scores = pd.read_parquet(manifest.read_for(run, "evaluate").outputs["scores"].fetch(settings().home / "cache"))
    old = scores[(scores["suite"] == "heldout") & (scores["model"] == "champion")].set_index("id")["answer"]
    assert len(pairs) > 10
    chosen = [{**pair, "choice": "left" if pair["left"] == old[pair["id"]] else "right"} for pair in pairs]
    (home / "choices.json").write_text(json.dumps(chosen))
    wheel("one", *changes, f"evaluate.preferences={home}/choices.json", stages=(evaluate, gate))
    verdict = json.loads(manifest.read_for(run, "gate").outputs["verdict"].fetch(home).read_text())
    assert verdict["verdict"] == "refuse" and "margin.preference: share preferred by people is worse" in verdict["reason"]
