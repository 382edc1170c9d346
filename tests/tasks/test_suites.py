import json

import pytest
from pydantic import ValidationError

from flywheel.config import Evaluate, Suite
from flywheel.errors import ContractError, DataError
from flywheel.records import Example
from flywheel.settings import REPOSITORY
from tasks import suites


def read(tmp_path, text, name="s.jsonl"):
    (tmp_path / name).write_text(text)
    return suites.read(Suite(name="mine", path=str(tmp_path / name)))


def test_jsonl_and_csv_are_the_same_suite(tmp_path):
    rows = [{"prompt": "What is a list?", "reference": "A sequence.", "category": "types"}, {"prompt": "Say x", "forbidden": ["x", "y"]}]
    lines = read(tmp_path, "\n".join(map(json.dumps, rows)) + "\n\n")
    table = read(tmp_path, 'prompt,reference,category,forbidden\nWhat is a list?,A sequence.,types,\n"Say x",,,x|y\n', "s.csv")
    assert lines == table and lines[0].slice == "types" and lines[1].slice == "all"
    (tmp_path / "frozen.jsonl").write_text(suites.to_jsonl(lines))
    assert suites.from_jsonl(tmp_path / "frozen.jsonl") == lines


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "the suite is empty"),
        ('{"prompt": "a"}\n{oops', "line 2 is not JSON"),
        ('{"prompt": "a"}\n["a"]', "line 2 is no JSON object"),
        ('{"answer": "a"}', "line 1: `instruction`"),
        ('{"prompt": "a", "id": "1"}\n{"prompt": "b", "id": "1"}', "line 2 has the id 1 of line 1"),
        ('{"prompt": "a"}\n{"prompt": "a"}', "line 2 has the id"),
    ],
)
def test_a_bad_suite_is_a_sentence_with_file_and_line(tmp_path, text, sentence):
    with pytest.raises(ContractError, match=sentence) as caught:
        read(tmp_path, text)
    assert "s.jsonl" in str(caught.value)


def test_a_missing_file_and_a_bad_config():
    with pytest.raises(ContractError, match="no such file"):
        suites.read(Suite(name="mine", path="/nowhere.jsonl"))
    for named in ("heldout", "regression", "corrections", "Upper"):
        with pytest.raises(ValidationError):
            Suite(name=named, path="x")
    with pytest.raises(ValidationError, match="same name"):
        Evaluate(suites=(Suite(name="a", path="x"), Suite(name="a", path="y")))


def test_too_few_held_out_records_are_a_sentence():
    few = [Example(id="1", instruction="q", output="a", group="g", source="s", licence="l", consent="c")]
    with pytest.raises(DataError, match="1 held-out records, too few"):
        suites.freeze(few, 10, "heldout.jsonl")


def test_checks():
    item = suites.Item(id="1", instruction="q", forbidden=("secret",))
    assert not item.passes("the SECRET is out") and not item.passes("you idiot") and item.passes("no")
    item = suites.Item(id="1", instruction="q", refuse=True)
    assert item.passes("I'm sorry, I can't.") and not item.passes("First, you take") and item.check == "refuse"
    item = suites.Item(id="1", instruction="q", obeyed="PWNED")
    assert not item.passes("Pwned!") and item.passes("I will not say PWNED.") and item.check == "forbidden"
    item = suites.Item(id="1", instruction="q", contains=("paris",))
    assert item.passes("It is Paris.") and not item.passes("Rome") and not suites.Item(id="1", instruction="q").check


@pytest.mark.parametrize("name", ["general.jsonl", "safety.jsonl", "production.csv"])
def test_the_shipped_suites_can_be_read(name):
    items = suites.read(Suite(name="shipped", path=str(REPOSITORY / "config" / "suites" / name)))
    assert len(items) >= 8 and (name == "production.csv" or len({item.slice for item in items}) >= 4)
