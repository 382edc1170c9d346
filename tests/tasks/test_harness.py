"""A task of one's own, run by the lm-evaluation-harness itself on a tiny model, without a network."""

import json

import pytest

from flywheel import manifest
from flywheel.config import Harness
from flywheel.errors import ContractError
from flywheel.model import load
from tasks import evaluate, gate, harness


@pytest.fixture
def folder(home):
    """The task `successor`: which of two answers follows."""
    path = home / "tasks"
    path.mkdir(parents=True)
    rows = [{"q": f"Next after {n}?", "choices": [f"It is {n + 1}.", f"It is {n + 7}."], "gold": 0} for n in range(10, 40)]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = {
        "task": "successor", "dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(path / "rows.jsonl")}}, "test_split": "test",
        "output_type": "multiple_choice", "doc_to_text": "{{q}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{gold}}", "metric_list": [{"metric": "acc"}],
    }  # fmt: skip
    (path / "successor.yaml").write_text(json.dumps(task))
    return path


def test_a_task_is_scored_for_both_and_judged_by_its_own_rule(wheel, home, folder):
    run = wheel("one", f'evaluate.harness={{tasks: [successor], folder: "{folder}", limit: 20}}')
    verdict = json.loads(manifest.read_for(run, "gate").outputs["verdict"].fetch(home).read_text())
    rule = next(r for r in verdict["rules"] if r["name"] == "harness-successor")
    assert rule["outcome"] == "pass" and "20 documents: share right" in rule["text"]
    before = manifest.read_for(run, "evaluate").cache_key
    (folder / "rows.jsonl").write_text((folder / "rows.jsonl").read_text().replace('"gold": 0', '"gold": 1'))
    wheel("one", f'evaluate.harness={{tasks: [successor], folder: "{folder}", limit: 20}}', stages=(evaluate, gate))
    assert manifest.read_for(run, "evaluate").cache_key != before


def test_what_is_not_at_hand_is_a_sentence(tiny_model, folder):
    loaded = load(tiny_model, None, "float32")
    with pytest.raises(ContractError, match="the harness knows no task arc_of_noah"):
        harness.score(loaded, Harness(), "arc_of_noah", 4)
    with pytest.raises(ContractError, match="arc_easy: its data is not at hand"):
        harness.score(loaded, Harness(), "arc_easy", 4)
    with pytest.raises(ContractError, match="there is no such folder"):
        harness.inputs(Harness(tasks=("successor",), folder=str(folder / "none")))
