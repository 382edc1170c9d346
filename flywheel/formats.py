"""The forms a record has outside: chat messages, the seed recipe's dict, and the preference and thumb rows that TRL reads. Lossless both ways.

In messages, an `input` is a second text part of the user's message, as chat APIs write several parts:

    {"role": "user", "content": [{"type": "text", "text": instruction}, {"type": "text", "text": input}]}

The chat templates of text models, through which TRL reads its rows, take no parts: there the prompt is what the flywheel
renders, instruction and input in one text, and a column `input` says which part of it the input is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flywheel import prompt
from flywheel.errors import DataError
from flywheel.records import Example, Message

Chat = list[dict[str, Any]]
Question = tuple[tuple[Message, ...], str, str]


def to_messages(example: Example) -> Chat:
    """What was said before, the question, and the answer."""
    parts = [{"type": "text", "text": text} for text in (example.instruction, example.input)]
    asked = {"role": "user", "content": parts if example.input else example.instruction}
    return [*(turn.model_dump() for turn in example.history), asked, *_said(example.output)]


def from_messages(messages: Any) -> tuple[tuple[Message, ...], str, str, str]:
    """(history, instruction, input, output) of a chat that ends with an answer. Raises DataError."""
    turns = _turns(messages, "messages")
    return *_question(turns[:-1], "messages"), _answer(turns[-1:], "messages")


def to_seed(example: Example) -> dict[str, str]:
    """The seed recipe's form, which has no place for earlier turns. Raises DataError when there are any."""
    if example.history:
        raise DataError("it has earlier turns, which instruction/input/output cannot hold", where=f"record {example.id}", mend="Write it as messages.")
    return {"instruction": example.instruction, "input": example.input, "output": example.output}


def from_seed(record: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, str, str]:
    """(no history, instruction, input, output) of the seed recipe's form. Raises DataError."""
    return (), _text(record.get("instruction"), "instruction"), _text(record.get("input") or "", "input"), _text(record.get("output"), "output")


def to_preference(example: Example) -> dict[str, Any]:
    """The row of a preference data set: `prompt`, `chosen`, `rejected`."""
    return {**_asked(example), "chosen": _said(example.output), "rejected": _said(example.rejected)}


def from_preference(record: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, str, str, str]:
    """(history, instruction, input, output, rejected); each part may be messages or plain text. Raises DataError."""
    return *_prompt(record), _part(record, "chosen"), _part(record, "rejected")


def to_thumb(example: Example) -> dict[str, Any]:
    """The row of an unpaired preference data set: `prompt`, `completion`, `label`."""
    return {**_asked(example), "completion": _said(example.output), "label": bool(example.liked)}


def from_thumb(record: Mapping[str, Any]) -> tuple[tuple[Message, ...], str, str, str, bool]:
    """(history, instruction, input, output, liked); each part may be messages or plain text. Raises DataError."""
    label = record.get("label")
    if not isinstance(label, bool):
        raise _wrong("label", "is neither true nor false")
    return *_prompt(record), _part(record, "completion"), label


def _asked(example: Example) -> dict[str, Any]:
    turns = prompt.messages(example.instruction, example.input, example.history)
    return {"prompt": [{"role": turn.role, "content": turn.content} for turn in turns], **({"input": example.input} if example.input else {})}


def _prompt(record: Mapping[str, Any]) -> Question:
    history, instruction, input = _question(_turns(record.get("prompt"), "prompt"), "prompt")
    given = _text(record.get("input") or "", "input")
    if not given or input:
        return history, instruction, input
    if not instruction.endswith(f"\n\n{given}"):
        raise DataError("it is not the end of the prompt", where="input", mend="Leave it out, or end the prompt with it after an empty line.")
    return history, instruction.removesuffix(f"\n\n{given}"), given


def _said(answer: str) -> Chat:
    return [{"role": "assistant", "content": answer}]


def _turns(found: Any, where: str) -> Chat:
    if isinstance(found, str):
        return [{"role": "user", "content": found}]
    if not isinstance(found, Sequence) or not found or not all(isinstance(turn, Mapping) for turn in found):
        raise _wrong(where, "is no list of messages")
    return [dict(turn) for turn in found]


def _question(turns: Chat, where: str) -> Question:
    if not turns or turns[-1].get("role") != "user":
        raise _wrong(where, "has no user's message just before the answer")
    first, *rest = _texts(turns[-1], where)
    history = []
    for turn in turns[:-1]:
        if turn.get("role") not in ("system", "user", "assistant"):
            raise _wrong(where, f"has a message by `{turn.get('role')}`")
        history.append(Message(role=turn["role"], content="\n\n".join(_texts(turn, where))))
    return tuple(history), first, "\n\n".join(rest)


def _answer(turns: Chat, where: str) -> str:
    if len(turns) != 1 or turns[0].get("role") != "assistant":
        raise _wrong(where, "does not end with one assistant's message")
    return "\n\n".join(_texts(turns[0], where))


def _part(record: Mapping[str, Any], name: str) -> str:
    found = record.get(name)
    return found if isinstance(found, str) else _answer(_turns(found, name), name)


def _texts(turn: Mapping[str, Any], where: str) -> list[str]:
    content = turn.get("content")
    if isinstance(content, str):
        return [content]
    if not isinstance(content, Sequence) or not content or not all(isinstance(part, Mapping) and part.get("type") == "text" for part in content):
        raise _wrong(where, "has a message whose content is no text")
    return [_text(part.get("text"), where) for part in content]


def _text(found: Any, where: str) -> str:
    if not isinstance(found, str):
        raise _wrong(where, "is no text")
    return found


def _wrong(where: str, what: str) -> DataError:
    return DataError(f"it {what}", where=where, mend="Write it as the last user's message and one assistant's answer, in text.")
