import re

import pytest

from flywheel.errors import DataError
from flywheel.records import Message
from tasks.sources import forms

USER = {"role": "user", "content": "Q"}
ANSWER = {"role": "assistant", "content": "A"}


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        ({"instruction": "Q", "output": "A"}, {}),
        ({"instruction": "Q", "input": None, "output": "A", "liked": None, "history": [], "unknown": {"x": 1}}, {}),
        ({"instruction": "Q", "output": "A", "history": [{"role": "system", "content": "S"}]}, {"history": (Message(role="system", content="S"),)}),
        ({"messages": [USER, ANSWER]}, {}),
        ({"messages": [{"role": "system", "content": "S"}, USER, ANSWER]}, {"history": (Message(role="system", content="S"),)}),
        ({"messages": [USER, {"role": "assistant", "content": "x"}, USER, ANSWER]}, {"history": (Message(role="user", content="Q"), Message(role="assistant", content="x"))}),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}, {"type": "text", "text": "I"}]}, ANSWER]}, {"input": "I"}),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Q"}]}, ANSWER]}, {}),
        ({"prompt": "Q", "completion": "A"}, {}),
        ({"prompt": "Q", "completion": "A", "label": False}, {"liked": False}),
        ({"prompt": [USER], "completion": [ANSWER], "label": True}, {"liked": True}),
        ({"prompt": "Q", "completion": "A", "label": "true"}, {"liked": True}),
        ({"prompt": "Q", "chosen": "A", "rejected": "B"}, {"rejected": "B"}),
        ({"prompt": [USER], "chosen": [ANSWER], "rejected": [{"role": "assistant", "content": "B"}]}, {"rejected": "B"}),
        ({"prompt": "ignored", "chosen": [USER, ANSWER], "rejected": [USER, {"role": "assistant", "content": "B"}]}, {"rejected": "B"}),
        ({"instruction": "Q", "input": "I", "chosen": "A", "rejected": "B"}, {"input": "I", "rejected": "B"}),
    ],
)  # fmt: skip
def test_each_form_becomes_one_row(record, expected):
    assert forms.row(record) == forms.Row(instruction="Q", output="A", **expected)


@pytest.mark.parametrize(
    ("record", "words"),
    [
        ({}, "no form"),
        ({"question": "Q", "answer": "A"}, "question, answer"),
        ({"instruction": "Q"}, "`output` is missing"),
        ({"instruction": "  ", "output": "A"}, "`instruction` is empty"),
        ({"instruction": {"text": "Q"}, "output": "A"}, "`instruction`"),
        ({"instruction": "Q", "output": float("nan")}, "`output`.*NaN"),
        ({"instruction": "Q", "output": 5}, "`output`"),
        ({"instruction": "Q\udc80", "output": "A"}, "not UTF-8"),
        ({"messages": [USER]}, "at least two turns"),
        ({"messages": "hello"}, "at least two turns"),
        ({"messages": [ANSWER, USER]}, "the last two turns"),
        ({"messages": [USER, {"role": "tool", "content": "x"}]}, "role"),
        ({"messages": [USER, {"role": "assistant", "content": {"x": 1}}]}, "text"),
        ({"messages": [USER, {"role": "assistant", "content": [{"type": "image", "url": "x"}]}]}, "text"),
        ({"messages": [{"role": "user", "content": ["a", "b", "c"]}, ANSWER]}, "3 parts"),
        ({"messages": [["user", "Q"], ANSWER]}, "role"),
        ({"prompt": "Q", "completion": 5}, "answer must be text"),
        ({"prompt": None, "chosen": "A", "rejected": "B"}, "`prompt`"),
        ({"prompt": "Q", "chosen": "A", "rejected": " "}, "`rejected` is empty"),
        ({"chosen": [USER, ANSWER], "rejected": [{"role": "user", "content": "other"}, ANSWER]}, "another question"),
        ({"prompt": "Q", "completion": "A", "label": "perhaps"}, "liked"),
    ],
)
def test_what_is_no_record_is_named(record, words):
    with pytest.raises(ValueError) as caught:
        forms.row(record)
    assert re.search(words, forms.reason(caught.value))


def test_columns_are_renamed_and_reached_into():
    record = {"prompt": "Q", "completion": "no", "data": {"answer": "A"}, "a.b": "dotted"}
    assert forms.row(forms.mapped(record, {"instruction": "prompt", "output": "data.answer"})) == forms.Row(instruction="Q", output="A")
    assert forms.row(forms.mapped(record, {"instruction": "prompt", "output": "a.b"})).output == "dotted"


@pytest.mark.parametrize(
    ("names", "columns", "words"),
    [
        (["instruction", "output", "output"], {}, "`output` is there twice"),
        (["question", "answer"], {}, "`instruction` is missing"),
        (["instruction", "answer"], {}, "`output` is missing"),
        (["question", "output"], {"instruction": "questoin"}, "`instruction` is missing"),
    ],
)
def test_a_wrong_header(names, columns, words):
    with pytest.raises(DataError, match=words):
        forms.check_columns("here", names, columns)


def test_a_right_header():
    forms.check_columns("here", ["question", "reply"], {"instruction": "question", "output": "reply.text"})
    forms.check_columns("here", ["prompt", "completion", "label"], {})
