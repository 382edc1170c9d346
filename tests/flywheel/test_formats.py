"""Every form comes back as it went, through JSON too."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flywheel import formats
from flywheel.errors import DataError
from flywheel.records import Example, Message, example_id

texts = st.text(max_size=60)
some = st.text(min_size=1, max_size=60)
history = st.lists(st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=texts), max_size=4).map(tuple)


def example(history, instruction, input, output, rejected="", liked=None):
    name = example_id(instruction, input, output, history=history, rejected=rejected, liked=liked)
    return Example(
        id=name, history=history, instruction=instruction, input=input, output=output, rejected=rejected, liked=liked, group="g", source="s", licence="l",
        consent="c",
    )  # fmt: skip


def through_json(found):
    return json.loads(json.dumps(found))


@given(history, some, texts, some)
def test_messages(history, instruction, input, output):
    messages = through_json(formats.to_messages(example(history, instruction, input, output)))
    assert formats.from_messages(messages) == (history, instruction, input, output)
    assert messages[-1] == {"role": "assistant", "content": output} and isinstance(messages[-2]["content"], list if input else str)
    assert through_json(formats.to_messages(example(*formats.from_messages(messages)))) == messages


@given(some, texts, some)
def test_the_seed_recipes_form(instruction, input, output):
    record = through_json(formats.to_seed(example((), instruction, input, output)))
    assert set(record) == {"instruction", "input", "output"} and formats.from_seed(record) == ((), instruction, input, output)


@given(history, some, texts, some, some)
def test_preferences(history, instruction, input, output, rejected):
    row = through_json(formats.to_preference(example(history, instruction, input, output, rejected)))
    assert set(row) - {"input"} == {"prompt", "chosen", "rejected"} and isinstance(row["prompt"][-1]["content"], str)
    assert formats.from_preference(row) == (history, instruction, input, output, rejected)


@given(history, some, texts, some, st.booleans())
def test_thumbs(history, instruction, input, output, liked):
    row = through_json(formats.to_thumb(example(history, instruction, input, output, liked=liked)))
    assert set(row) - {"input"} == {"prompt", "completion", "label"} and isinstance(row["prompt"][-1]["content"], str)
    assert formats.from_thumb(row) == (history, instruction, input, output, liked)


def test_plain_texts_are_read_too():
    assert formats.from_preference({"prompt": "q", "chosen": "a", "rejected": "b"}) == ((), "q", "", "a", "b")
    assert formats.from_thumb({"prompt": "q", "completion": "a", "label": False}) == ((), "q", "", "a", False)
    assert formats.from_seed({"instruction": "q", "output": "a"}) == ((), "q", "", "a")


USER, ANSWER = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}


@pytest.mark.parametrize(
    "messages",
    [None, "text", [], 5, [USER], [ANSWER], [ANSWER, USER], [USER, ANSWER, ANSWER], ["q", "a"], [USER, {"role": "assistant"}], [{"role": "user", "content": None}, ANSWER],
     [{"role": "user", "content": [{"type": "image"}]}, ANSWER], [{"role": "tool", "content": "x"}, USER, ANSWER], [{"role": "user", "content": [{"type": "text"}]}, ANSWER]],
)  # fmt: skip
def test_what_is_no_chat_is_said_so(messages):
    with pytest.raises(DataError, match="messages"):
        formats.from_messages(messages)


def test_what_does_not_fit_is_said_so():
    with pytest.raises(DataError, match="earlier turns"):
        formats.to_seed(example((Message(role="user", content="x"),), "q", "", "a"))
    with pytest.raises(DataError, match="label"):
        formats.from_thumb({"prompt": "q", "completion": "a", "label": "yes"})
    with pytest.raises(DataError, match="rejected"):
        formats.from_preference({"prompt": "q", "chosen": "a"})
    with pytest.raises(DataError, match="input"):
        formats.from_preference({"prompt": "q", "input": "x", "chosen": "a", "rejected": "b"})
