"""The whole of evaluate on a tiny model: frozen suites, cached scores, corrections that become permanent tests."""

import csv
import json

import pandas as pd
import pytest

from flywheel import config, manifest
from flywheel.errors import ContractError, DataError
from flywheel.records import FAILURE, Example
from flywheel.settings import settings
from tasks import clean, dataset, evaluate, gate, grounded, index, ingest, integrity, parity, register, rollout, scoring, suites, tokenize, train
from tests.tasks.conftest import rows

UP_TO_TRAIN = (ingest, clean, tokenize, train, dataset)
AFTER = (parity, evaluate, gate, register, rollout)


def output(run, stage, name):
    return manifest.read_for(run, stage).outputs[name].fetch(settings().home / "cache")


def report(run):
    return json.loads(output(run, "evaluate", "report").read_text())


def test_the_suites_stay_frozen_and_the_champion_is_scored_once(wheel, home, capsys):
    first = wheel("one", stages=(*UP_TO_TRAIN, *AFTER))
    assert json.loads(output(first, "gate", "verdict").read_text())["verdict"] == "promote"
    frozen = output(first, "evaluate", "suites") / "heldout.jsonl"
    assert {item.slice for item in suites.from_jsonl(frozen)} == {"even", "odd"}
    (home / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows(300, 5)))
    second = wheel("two", "train.epochs=1", stages=(*UP_TO_TRAIN, parity, evaluate, gate))
    assert (output(second, "evaluate", "suites") / "heldout.jsonl").read_bytes() == frozen.read_bytes()
    assert report(second)["champion"] == 1
    scores = pd.read_parquet(output(second, "evaluate", "scores"))
    before = pd.read_parquet(output(first, "evaluate", "scores"))
    loss = before[before["model"] == "challenger"].set_index("id")["loss"]
    pd.testing.assert_series_equal(scores[scores["model"] == "champion"].set_index("id")["loss"], loss)
    page = output(second, "gate", "page").read_text()
    assert "<svg" in page and "slice.heldout/even" in page and "version 1" in page


def test_the_users_suites_are_asked_and_their_answers_written(wheel, home):
    (home / "prompts.csv").write_text('prompt,slice\n"What, if any?",a\nWhy?,b\n')
    (home / "mine.jsonl").write_text('{"prompt": "Next after 5?", "reference": "It is 6.", "label": true}\n{"prompt": "Say x", "forbidden": ["zzz"]}\n')
    named = [{"name": "production", "role": "production", "path": f"{home}/prompts.csv"}, {"name": "mine", "role": "safety", "path": f"{home}/mine.jsonl"}]
    run = wheel("one", f"evaluate.suites={json.dumps(named)}")
    with open(output(run, "evaluate", "answers")) as file:
        answers = [row for row in csv.DictReader(file) if row["suite"] != "heldout"]
    assert [(a["suite"], a["prompt"]) for a in answers] == [
        ("production", "What, if any?"), ("production", "Why?"), ("mine", "Next after 5?"), ("mine", "Say x"),
    ]  # fmt: skip
    assert "accuracy" in report(run)["models"]["challenger"]["mine"]
    (home / "mine.jsonl").write_text("")
    with pytest.raises(ContractError, match=r"mine.jsonl: the suite is empty"):
        wheel("two", f"evaluate.suites={json.dumps(named)}")


def test_with_an_index_the_held_out_questions_are_asked_with_passages_too(wheel, home):
    (home / "library").mkdir(parents=True)
    facts = rows(240)
    for i in range(0, 240, 4):
        (home / "library" / f"{i}.txt").write_text(" ".join(f"{r['instruction']} {r['output']}" for r in facts[i : i + 4]))
    documents = json.dumps([{"kind": "files", "path": f"{home}/library/*"}])
    run = wheel("one", f"index.documents={documents}", "model.max_length=500", stages=(index, *UP_TO_TRAIN, parity, evaluate, gate))
    found = report(run)["retrieval"]
    assert 1 < found["questions"] <= 6 and 0 < found["retriever"]["recall"] <= 1
    for model in (found["models"]["champion"], found["models"]["challenger"]):
        assert model["alone"]["log_loss"] != model["with passages"]["log_loss"] and 0 <= model["with passages"]["faithful"] <= 1
        gain, low, high = model["gain"]["log_loss"]
        assert low < gain < high and gain == pytest.approx(model["alone"]["log_loss"] - model["with passages"]["log_loss"], abs=2e-4)
    assert "With passages from the index" in output(run, "gate", "page").read_text()
    assert "grounded" not in report(run)["suites"]  # no rule of the gate sees it
    for off in ("evaluate.retrieval=0", "index.documents=[]", "index.alias=none"):
        assert grounded.inputs(config.load(str(home / "c.yaml"), [f"index.documents={documents}", off])) == {}


def test_a_cut_adapter_is_named_and_never_scored(wheel, home):
    run = wheel("one", stages=UP_TO_TRAIN)
    done = manifest.read_for(run, "train")
    adapter = done.outputs["adapter"].fetch(home)
    weights = adapter / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ContractError, match=r"adapter_model\.safetensors"):
        wheel("one", stages=(evaluate,))  # its manifest knows better
    done.outputs["adapter"] = manifest.describe(adapter, done.outputs["adapter"].uri)
    manifest.write(done, run)
    wheel("one", stages=(parity, evaluate, gate))
    verdict = json.loads(output(run, "gate", "verdict").read_text())
    assert verdict["verdict"] == "refuse" and "integrity: adapter_model.safetensors cannot be read" in verdict["reason"]


def test_adapters_with_missing_foreign_or_broken_tensors(wheel, home, tiny_model):
    from safetensors.torch import load_file, save_file

    run = wheel("one", stages=UP_TO_TRAIN)
    adapter = manifest.read_for(run, "train").outputs["adapter"].fetch(home)
    weights = adapter / "adapter_model.safetensors"
    tensors = load_file(weights)
    name = sorted(tensors)[3]
    assert integrity.adapter_problem(adapter, tiny_model) == ""
    for change, sentence in (
        ({name: None}, f"lacks {name}"),
        ({name: tensors[name] * float("nan")}, "NaN"),
        ({name: tensors[name][:1].clone()}, "shape"),
    ):
        save_file({k: v for k, v in {**tensors, **change}.items() if v is not None}, weights)
        assert sentence in integrity.adapter_problem(adapter, tiny_model)
    weights.unlink()
    assert "missing" in integrity.adapter_problem(adapter, tiny_model)


def test_leaks_are_seen_through_ids_questions_and_wording():
    def record(number, question, answer):
        return Example(id=number, instruction=question, output=answer, group=number, source="s", licence="l", consent="c")

    item = suites.Item(
        id="s1",
        instruction="What does open do?",
        output="It opens the file at a path and returns a stream, from which text can be read line by line until the file ends.",
    )
    records = [record("r1", "what does OPEN do", "Nothing."), record("r2", f"Well, {item.instruction}", item.output), record("r3", "Who are you?", "A model.")]
    assert integrity.contaminated([item], {"s1"}, []) == ["s1"]
    assert integrity.contaminated([item], {"r1"}, records) == ["s1"] and integrity.contaminated([item], {"r2"}, records) == ["s1"]
    assert integrity.contaminated([item], {"r3"}, records) == [] and integrity.contaminated([item], set(), records) == []


def test_what_a_turn_fixes_is_asked_for_ever():
    items = [suites.Item(id=name, instruction="q", output="a") for name in "abc"]
    table = pd.DataFrame(
        [
            ("corrections", i, m, r)
            for i, (old, new) in zip("abc", [(0.1, 0.9), (0.1, 0.6), (0.8, 0.9)], strict=True)
            for m, r in (("champion", old), ("challenger", new))
        ],
        columns=["suite", "id", "model", "rouge_l"],
    )
    assert [item.id for item in evaluate.newly_fixed(table, items)] == ["a"]
    assert evaluate.newly_fixed(table[table["suite"] == "none"], items) == []


def test_confirmed_failures_are_asked_before_other_corrections():
    def example(name, slice="feedback", **more):
        fields = {"instruction": name, "output": "a", "source": "feedback", "licence": "x", "consent": "y", "feedback_ids": ("f",)} | more
        return Example(id=name, slice=slice, group=name, split="train", **fields)

    examples = [example("a"), example("b", FAILURE), example("c", FAILURE), example("d", liked=True), example("e", feedback_ids=()), example("f")]
    found = evaluate.corrected(examples, learned={"a", "b", "c", "d", "e"}, known={"c"})
    assert [e.id for e in found] == ["b", "a"]  # c is asked for ever, d is a thumb, e nobody's, and f was not learned


def test_a_silent_judge_decides_nothing(wheel, home):
    (home / "labels.jsonl").write_text('{"prompt": "q", "answer": "a", "rating": 5}\n')
    judge = {"url": "http://127.0.0.1:1", "model": "m", "labels": f"{home}/labels.jsonl"}
    run = wheel("one", f"evaluate.judge={json.dumps(judge)}", "gate.primary=judge")
    verdict = json.loads(output(run, "gate", "verdict").read_text())
    assert verdict["verdict"] == "hold" and "no example has a score for judge's rating" in verdict["reason"]
    assert "a usable rating to 0 of 1" in report(run)["judge"]["text"]


def test_too_few_held_out_records_are_a_sentence(wheel, home):
    few = [{"instruction": f"Question {i}?", "output": f"Answer {i}."} for i in range(40)]
    (home / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in few))
    with pytest.raises(DataError, match=r"\d held-out records, too few to judge on"):
        wheel("one", "ingest.heldout=0.03")


def test_losses_that_are_no_numbers_are_a_sentence(wheel, monkeypatch):
    score = scoring.score

    def broken(ctx, name, loaded, items, answered):
        rows = score(ctx, name, loaded, items, answered)
        if name.startswith("challenger"):
            rows[0]["loss"] = float("nan")
        return rows

    monkeypatch.setattr(scoring, "score", broken)
    with pytest.raises(DataError, match="1 examples have no finite log_loss"):
        wheel("one")
