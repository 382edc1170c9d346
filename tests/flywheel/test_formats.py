"""Every form that is written is read back as it was, through JSON too."""

import json

from hypothesis import given
from hypothesis import strategies as st

from flywheel import formats
from flywheel.records import Example, Message, example_id
from tasks.sources import forms

some = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=60).filter(str.strip)
texts = st.just("") | some
history = st.lists(st.builds(Message, role=st.sampled_from(["system", "user", "assistant"]), content=texts), max_size=4).map(tuple)


def example(history, instruction, input, output, rejected="", liked=None):
    name = example_id(instruction, input, output, history=history, rejected=rejected, liked=liked)
    return Example(
        id=name, history=history, instruction=instruction, input=input, output=output, rejected=rejected, liked=liked, group="g", source="s", licence="l",
        consent="c",
    )  # fmt: skip


def read_back(written, record):
    row = forms.row(json.loads(json.dumps(written)))
    return all(getattr(row, name) == getattr(record, name) for name in ("history", "instruction", "input", "output", "rejected", "liked"))


@given(history, some, texts, some)
def test_messages(history, instruction, input, output):
    record = example(history, instruction, input, output)
    written = formats.to_chat(record)
    assert list(written) == (["messages", "input"] if input else ["messages"]) and read_back(written, record)


@given(history, some, texts, some, some)
def test_preferences(history, instruction, input, output, rejected):
    record = example(history, instruction, input, output, rejected)
    assert set(formats.to_chat(record)) - {"input"} == {"prompt", "chosen", "rejected"} and read_back(formats.to_chat(record), record)


@given(history, some, texts, some, st.booleans())
def test_thumbs(history, instruction, input, output, liked):
    record = example(history, instruction, input, output, liked=liked)
    assert set(formats.to_chat(record)) - {"input"} == {"prompt", "completion", "label"} and read_back(formats.to_chat(record), record)


@given(some, texts, some)
def test_instruction_input_output(instruction, input, output):
    record = example((), instruction, input, output)
    assert read_back(formats.to_instruction(record), record)
    assert formats.to_instruction(example((Message(role="system", content="x"),), instruction, input, output)) is None
    assert formats.to_instruction(example((), instruction, input, output, liked=True)) is None
