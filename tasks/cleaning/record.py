"""What a step that looks at one record at a time is given and gives back."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Texts(NamedTuple):
    """What a step may look at and change."""

    history: tuple[str, ...]  # contents of earlier turns
    instruction: str
    input: str
    output: str
    rejected: str = ""


Judge = Callable[[Texts], tuple[Texts, str]]
"""From a record's texts to those texts, the same object when nothing changed, and why the record is rejected, or ""."""


def edited(texts: Texts, edit: Callable[[str], str]) -> Texts:
    """Every text edited; the same object when nothing changed."""
    history, instruction, input, output, rejected = texts
    new = Texts(
        tuple(map(edit, history)) if history else history,
        edit(instruction),
        edit(input) if input else input,
        edit(output),
        edit(rejected) if rejected else rejected,
    )
    return texts if new == texts else new
