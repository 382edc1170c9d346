"""The forms in which others read a record. `tasks/sources/forms.py` reads each of them back, without loss.

The user's message is what the flywheel renders, instruction and input in one text, since the chat templates of text models take
no parts; a column `input` says which part of it the input is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from flywheel import prompt
from flywheel.records import Example

Chat = list[dict[str, Any]]
Form = Literal["chat", "instruction"]


def to_chat(example: Example) -> dict[str, Any]:
    """What TRL reads: `messages`; of a preference `prompt`, `chosen`, `rejected`; of a thumb `prompt`, `completion`, `label`."""
    asked: Chat = [turn.model_dump() for turn in prompt.messages(example.instruction, example.input, example.history)]
    part = {"input": example.input} if example.input else {}
    if example.kind == "preference":
        return {"prompt": asked, **part, "chosen": _said(example.output), "rejected": _said(example.rejected)}
    if example.kind == "thumb":
        return {"prompt": asked, **part, "completion": _said(example.output), "label": example.liked}
    return {"messages": asked + _said(example.output), **part}


def to_instruction(example: Example) -> dict[str, Any] | None:
    """`instruction`, `input`, `output`; None for what that form has no place for: earlier turns, preferences, thumbs."""
    if example.history or example.kind != "supervised":
        return None
    return {"instruction": example.instruction, "input": example.input, "output": example.output}


def _said(answer: str) -> Chat:
    return [{"role": "assistant", "content": answer}]


FORMS: dict[str, Callable[[Example], dict[str, Any] | None]] = {"chat": to_chat, "instruction": to_instruction}
