"""The forms in which others read a record. `tasks/sources/forms.py` reads each of them back, without loss.

An `input` is a second text part of the user's message, as chat APIs write several parts:

    {"role": "user", "content": [{"type": "text", "text": instruction}, {"type": "text", "text": input}]}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from flywheel.records import Example

Chat = list[dict[str, Any]]
Form = Literal["chat", "instruction"]


def to_chat(example: Example) -> dict[str, Any]:
    """What TRL reads: `messages`; of a preference `prompt`, `chosen`, `rejected`; of a thumb `prompt`, `completion`, `label`."""
    parts = [{"type": "text", "text": text} for text in (example.instruction, example.input)]
    asked: Chat = [*(turn.model_dump() for turn in example.history), {"role": "user", "content": parts if example.input else example.instruction}]
    if example.kind == "preference":
        return {"prompt": asked, "chosen": _said(example.output), "rejected": _said(example.rejected)}
    if example.kind == "thumb":
        return {"prompt": asked, "completion": _said(example.output), "label": example.liked}
    return {"messages": asked + _said(example.output)}


def to_instruction(example: Example) -> dict[str, Any] | None:
    """`instruction`, `input`, `output`; None for what that form has no place for: earlier turns, preferences, thumbs."""
    if example.history or example.kind != "supervised":
        return None
    return {"instruction": example.instruction, "input": example.input, "output": example.output}


def _said(answer: str) -> Chat:
    return [{"role": "assistant", "content": answer}]


FORMS: dict[str, Callable[[Example], dict[str, Any] | None]] = {"chat": to_chat, "instruction": to_instruction}
