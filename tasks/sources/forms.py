"""The forms in which people keep records, and the one row that each becomes.

- `instruction`, `input`, `output` (and `history`, `rejected`, `liked`, as the flywheel itself writes them)
- chat: `messages`; the last turn is the answer, the one before it the question, what went before is history
- preference: `prompt`, `chosen`, `rejected`, as texts or as turns (then `chosen` may hold the prompt itself)
- a thumb: `prompt`, `completion`, `label`; without `label`, plain question and answer
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flywheel.config.sources import Column
from flywheel.errors import DataError
from flywheel.records import Message

FORMS = (("prompt", "chosen", "rejected"), ("chosen", "rejected"), ("instruction", "output"), ("messages",), ("prompt", "completion"))
FIELDS: tuple[str, ...] = get_args(Column)


class Row(BaseModel):
    """One record as its owner wrote it, in our form. Other fields are left out."""

    model_config = ConfigDict(strict=True, extra="ignore")

    history: tuple[Message, ...] = Field((), strict=False)
    instruction: str
    input: str = ""
    output: str
    rejected: str = ""
    liked: bool | None = Field(None, strict=False)
    group: str = ""
    slice: str = ""


def row(fields: Mapping[str, Any]) -> Row:
    """A record in any of the forms. Raises ValueError (pydantic's included) that names the field."""
    given = {name: value for name in FIELDS if (value := fields.get(name)) is not None}
    if "chosen" in given and "rejected" in given:
        found = _preference(given)
    elif "instruction" in given or "output" in given:
        found = Row.model_validate(given)
    elif "messages" in given:
        found = _conversation(given["messages"], given)
    elif "prompt" in given and "completion" in given:
        found = _conversation(_turns(given["prompt"], given["completion"]), given, liked=given.get("label"))
    else:
        raise ValueError(f"no form is recognised (fields: {', '.join(map(str, list(fields)[:8])) or 'none'})")
    for name in ("instruction", "output"):
        if not getattr(found, name).strip():
            raise ValueError(f"`{name}` is empty")
    try:
        "".join((found.instruction, found.input, found.output, found.rejected, found.group, found.slice, *(t.content for t in found.history))).encode()
    except UnicodeEncodeError as error:
        raise ValueError("the text is not UTF-8") from error
    return found


def from_messages(messages: Sequence[Any]) -> tuple[tuple[Message, ...], str, str, str]:
    """Chat turns as (history, instruction, input, output). A user's content of two text parts is instruction and input.

    Raises ValueError when the last two turns are not a user's and the assistant's, or a turn is no text.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) < 2:
        raise ValueError("`messages`: a list of at least two turns is needed")
    *before, asked, answered = map(_turn, messages)
    if (asked[0], answered[0]) != ("user", "assistant"):
        raise ValueError(f"`messages`: the last two turns are the {asked[0]}'s and the {answered[0]}'s; they must be the user's and the assistant's")
    if len(asked[1]) > 2:
        raise ValueError(f"`messages`: the last question has {len(asked[1])} parts; instruction and input are two")
    history = tuple(Message(role=role, content="\n\n".join(parts)) for role, parts in before)  # type: ignore[arg-type]
    return history, asked[1][0], asked[1][1] if len(asked[1]) == 2 else "", "\n\n".join(answered[1])


def _turn(turn: Any) -> tuple[str, list[str]]:
    """(role, text parts) of one turn."""
    if not isinstance(turn, Mapping) or turn.get("role") not in ("system", "user", "assistant"):
        raise ValueError("`messages`: each turn needs a role: system, user or assistant")
    content = turn.get("content")
    parts = [content] if isinstance(content, str) else content
    if not isinstance(parts, Sequence) or not parts:
        raise ValueError("`messages`: the content of a turn must be text")
    texts = [part.get("text") if isinstance(part, Mapping) and part.get("type", "text") == "text" else part for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("`messages`: the content of a turn must be text, or a list of text parts")
    return turn["role"], [str(text) for text in texts]


def _turns(prompt: Any, answer: Any) -> list[Any]:
    """One conversation of a prompt and an answer, each a text or turns; an answer's turns may hold the prompt themselves."""
    answers = [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer
    prompts = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    if not isinstance(answers, list) or not answers:
        raise ValueError("the answer must be text, or a list of turns")
    if any(isinstance(turn, Mapping) and turn.get("role") == "user" for turn in answers):
        return answers
    if not isinstance(prompts, list):
        raise ValueError("`prompt` must be text, or a list of turns")
    return prompts + answers


def _conversation(messages: Any, given: Mapping[str, Any], **more: Any) -> Row:
    history, instruction, input, output = from_messages(messages)
    named = given.get("input")  # `flywheel.formats` says so which part of the question is the input
    if isinstance(named, str) and named and instruction.endswith(f"\n\n{named}"):
        instruction, input = instruction.removesuffix(f"\n\n{named}"), named
    kept = {name: given[name] for name in ("group", "slice") if name in given}
    return Row.model_validate({"history": history, "instruction": instruction, "input": input, "output": output, **kept, **more})


def _preference(given: Mapping[str, Any]) -> Row:
    if "prompt" not in given and "instruction" in given:  # our own form, with `chosen` for the output
        return Row.model_validate({**given, "output": given["chosen"]})
    better = from_messages(_turns(given.get("prompt"), given["chosen"]))
    worse = from_messages(_turns(given.get("prompt"), given["rejected"]))
    if better[:3] != worse[:3]:
        raise ValueError("`rejected` answers another question than `chosen`")
    if not worse[3].strip():
        raise ValueError("`rejected` is empty")
    return _conversation(_turns(given.get("prompt"), given["chosen"]), given, rejected=worse[3])


def at(value: Any, path: str) -> Any:
    """What lies at a dotted path in nested mappings; None where there is nothing."""
    if isinstance(value, Mapping) and path in value:
        return value[path]
    for part in path.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def mapped(fields: Mapping[str, Any], columns: Mapping[Any, str]) -> dict[str, Any]:
    """The fields under our names; those that were renamed are gone under theirs."""
    taken = set(columns.values())
    return {**{name: value for name, value in fields.items() if name not in taken}, **{ours: at(fields, theirs) for ours, theirs in columns.items()}}


def time(fields: Mapping[str, Any], path: str) -> datetime:
    """When a record came to be. Raises ValueError when it does not say."""
    value = at(fields, path)
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return datetime.fromtimestamp(value, UTC)
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except (ValueError, OverflowError, OSError) as error:
        raise ValueError(f"`{path}` is not a time (ISO or Unix seconds)") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def check_columns(where: str, names: Iterable[str], columns: Mapping[Any, str]) -> None:
    """A table's header must not repeat a name, and must hold one of the forms. Raises DataError."""
    have = list(names)
    twice = sorted({name for name in have if have.count(name) > 1})
    if twice:
        raise DataError(f"the column `{twice[0]}` is there twice", where=where, mend="Rename or remove one of them.")
    known = (set(have) - set(columns.values())) | {ours for ours, theirs in columns.items() if theirs in have or theirs.split(".")[0] in have}
    if any(known.issuperset(form) for form in FORMS):
        return
    missing = next((name for name in ("instruction", "output") if name not in known), "output")
    there = ", ".join(have[:8]) or "none"
    raise DataError(f"the column `{missing}` is missing (there are: {there})", where=where, mend="Name the columns under `columns`, or rename them.")


def reason(error: ValueError) -> str:
    """Why a record was refused, in one line."""
    if not isinstance(error, ValidationError):
        return str(error)
    first = error.errors(include_url=False)[0]
    field = ".".join(str(part) for part in first["loc"])
    value = first.get("input")
    if first["type"] == "missing":
        return f"`{field}` is missing"
    found = " (it is NaN)" if isinstance(value, float) and math.isnan(value) else ""
    return f"`{field}`: {first['msg'][:1].lower()}{first['msg'][1:]}{found}"
