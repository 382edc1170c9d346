"""Each check finds what it is for, and nothing in clean data."""

import random

import pytest

from flywheel.config import Validation
from flywheel.records import Example, example_id
from tasks import validation

WORDS = [f"word{i}" for i in range(400)]


def records(count, seed=0, *, words=WORDS, size=20, slices=("a", "b")):
    dice = random.Random(seed)
    found = []
    for number in range(count):
        instruction, output = f"question {seed * count + number}", " ".join(dice.choices(words, k=dice.randrange(size // 2, size * 2)))
        name = example_id(instruction, "", output)
        found.append(
            Example(id=name, instruction=instruction, output=output, group=name, slice=slices[number % len(slices)], source="s", licence="l", consent="c")
        )
    return found


def look(tmp_path, examples, before=None, **conf):
    path = tmp_path / "train.jsonl"
    path.write_text("".join(e.model_dump_json() + "\n" for e in sorted(examples, key=lambda e: e.id)))
    profile, findings = validation.look_over(path, Validation(**conf), before)
    return profile, {f.name: f for f in findings}


def test_clean_data_passes_and_two_samples_of_one_source_do_not_drift(tmp_path):
    before, found = look(tmp_path, records(1000))
    assert {f.outcome for f in found.values()} == {"pass", "skip"} and before.slices == {"a": 500, "b": 500} and sum(before.lengths) == 1000
    _, found = look(tmp_path, records(1000, 1), before)
    assert {f.outcome for f in found.values()} == {"pass"}
    assert found["length_drift"].figure < 0.1 and found["vocabulary_drift"].figure < 0.02


@pytest.mark.parametrize("policy", [(), ("duplicates", "empty", "balance", "length_drift", "vocabulary_drift")])
def test_what_is_planted_is_found(tmp_path, policy):
    before, _ = look(tmp_path, records(500))
    bad = "stop" if policy else "warn"
    good = records(500, 1)
    cases = {
        "duplicates": [*good, good[3]],
        "empty": [*good[1:], good[0].model_copy(update={"output": " \n"})],
        "balance": records(500, 1, slices=("a",) * 200 + ("b",)),
        "length_drift": records(500, 1, size=60),
        "vocabulary_drift": records(500, 1, words=[f"other{i}" for i in range(400)]),
    }
    for name, examples in cases.items():
        _, found = look(tmp_path, examples, before, stop=policy)
        assert found[name].outcome == bad, name
        assert {other for other, f in found.items() if f.outcome not in ("pass", "skip")} == {name}
    _, found = look(tmp_path, cases["duplicates"], before, stop=policy)
    assert good[3].id in found["duplicates"].text


def test_few_records_say_nothing_about_drift(tmp_path):
    before, _ = look(tmp_path, records(500))
    _, found = look(tmp_path, records(50, 1, size=60), before)
    assert found["length_drift"].outcome == "skip" and "fewer than 100" in found["length_drift"].text


def test_the_indices_are_the_textbooks():
    assert validation.stability_index([10, 80, 10], [10, 80, 10]) == 0
    even = validation.stability_index([1000] * 10, [500] * 5 + [1500] * 5)  # half the tenths lose half, half gain half
    assert even == pytest.approx(0.5 * 0.6931 * 0.5 + 0.5 * 0.4055 * 0.5, abs=0.01)
    assert validation.divergence({"a": 1.0}, {"b": 1.0}) == pytest.approx(1) and validation.divergence({"a": 0.5}, {"a": 0.5}) == pytest.approx(0, abs=1e-9)
