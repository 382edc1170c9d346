"""A search on the tiny model: a trial a combination, judged on groups that none of them learned from; the best is named."""

import json

import pytest

from flywheel import config, manifest, stage
from flywheel.errors import ContractError, DataError
from flywheel.settings import REPOSITORY
from tasks import best, clean, ingest, tokenize, train, trial
from tasks.training import rows
from tests.tasks.conftest import rows as texts

CONFIG = """
model: {{base: '{base}', max_length: 64}}
ingest: {{sources: [{{kind: files, path: '{home}/r.jsonl', licence: x, consent: y}}], heldout: 0.2}}
clean: {{steps: [unicode, length, exact_duplicates, decontamination]}}
train: {{start: base, epochs: 2, rank: 8, threads: 1}}
search: {{grid: {{learning_rate: [0.000001, 0.01], rank: [4, 8]}}, trials: 3, examples: 60, judged: 20}}
"""


@pytest.fixture
def search(home, tiny_model):
    """A run that is tokenized; gives its folder, and a function that runs a trial of it."""
    home.mkdir()
    (home / "r.jsonl").write_text("".join(json.dumps(r) + "\n" for r in texts(200)))
    (home / "c.yaml").write_text(CONFIG.format(base=tiny_model, home=home))
    folder = f"{home}/store/runs/t/a"
    for module in (ingest, clean, tokenize):
        stage.execute(module.STAGE, config.load(f"{home}/c.yaml"), folder)

    def run(number, *changes):
        conf = config.load(f"{home}/c.yaml", [f"search.trial={number}", *changes])
        return stage.execute(trial.STAGE, conf, f"{folder}/trials/{number}")

    return folder, run


def ranked(home, folder, *changes):
    done = stage.execute(best.STAGE, config.load(f"{home}/c.yaml", changes), folder)
    return done, *(json.loads(done.outputs[name].fetch(home / "cache").read_bytes()) for name in ("trials", "changes"))


def test_the_best_of_three_is_named(search, home, monkeypatch):
    folder, run = search
    conf = config.load(f"{home}/c.yaml")
    for number, changes in enumerate(conf.search.combinations(conf.seed)):
        assert run(number).metrics["learning_rate"] == json.dumps(changes["learning_rate"])
    done, found, changes = ranked(home, folder)
    assert done.metrics["trials"] == len(found) == 3 and [r["loss"] for r in found] == sorted(r["loss"] for r in found)
    assert found[0]["settings"]["learning_rate"] == 0.01 and changes[0] == "train.learning_rate=0.01" and done.metrics["worst"] > done.metrics["loss"] + 0.3
    config.load(f"{home}/c.yaml", changes)  # they are what `--set` takes
    assert run(0).cached_from

    def wrong(*_):
        raise DataError("the loss is nan at step 3")

    monkeypatch.setattr(train, "teach", wrong)
    assert run(1, "seed=7").metrics["loss"] is None
    assert [r["why"] for r in ranked(home, folder)[1]] == ["", "", "the loss is nan at step 3"]


def test_no_group_is_learned_and_judged_and_the_gate_s_questions_are_in_neither(search, home):
    folder, _ = search
    every = rows.read(manifest.read_for(folder, "tokenize").outputs["train"].fetch(home / "cache"))
    groups = {row.id: f"group {i % 30}" for i, row in enumerate(every)}
    learned, judged = trial.divided(every, groups, 0.3, 1)
    assert not {groups[r.id] for r in learned} & {groups[r.id] for r in judged} and len(learned) + len(judged) == len(every) and len(judged) > 10
    assert trial.divided(every, groups, 0.3, 2) != (learned, judged)
    heldout = manifest.read_for(folder, "clean").outputs["heldout"].fetch(home / "cache").read_text()
    assert heldout and not any(json.loads(line)["id"] in groups for line in heldout.splitlines())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ("search.grid={rate: [1]}", "train has no setting rate"),
        ("search.grid={rank: []}", "rank has no value to try"),
        ("search.grid={learning_rate: [5.0]}", "learning_rate cannot be 5.0"),
        ("search.trial=3", "there are 3 trials, from 0"),
        ("train.objective=dpo", "trials are judged by the loss of answers"),
        ("train.device=cuda", "a GPU is asked for"),
    ],
)
def test_what_cannot_be_tried_is_a_sentence(search, change, match):
    with pytest.raises(ContractError, match=match):
        search[1](0, change)


def test_too_little_to_judge_on_and_no_trial_at_all(search, home):
    folder, run = search
    with pytest.raises(ContractError, match="no trial has ended"):
        ranked(home, folder)
    with pytest.raises(DataError, match="examples to learn and 0 to judge on"):
        run(0, "search.set_aside=0.0000001")


def test_the_shipped_search_is_one():
    conf = config.load(str(REPOSITORY / "config" / "search.yaml"))
    assert len(conf.search.combinations(conf.seed)) == 6
