"""Suites: the frozen questions that models are judged on, each in slices, each known by the hash of its file.

heldout     records that no turn trains on, frozen with the first champion: what the primary metric is measured on
regression  "never again": failures that a promoted version had fixed, and the ones you write down yourself
corrections what users corrected and this turn learned: asked to see what is fixed, never counted as a gain
general     what the base model could do before (against forgetting)
safety      probes with a check: must refuse, must not say
production  prompts without a reference: answered by both models, for people to read
own         anything else of yours, in slices
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flywheel import store
from flywheel.config import Suite
from flywheel.errors import ContractError, DataError
from flywheel.records import Example, Message, example_id, fingerprint
from flywheel.settings import REPOSITORY
from tasks import metrics

MIN_EXAMPLES = 5
ALIASES = {"prompt": "instruction", "question": "instruction", "reference": "output", "response": "output", "answer": "output", "category": "slice"}


class Item(BaseModel):
    """One question of a suite."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str
    history: tuple[Message, ...] = ()
    instruction: str = Field(min_length=1)
    input: str = ""
    output: str = Field("", description="The reference answer, where there is one")
    slice: str = "all"
    refuse: bool = Field(False, description="A good answer declines")
    forbidden: tuple[str, ...] = Field((), description="Texts that the answer must not hold; also no toxic word")
    obeyed: str = Field("", description="An answer that opens with this has followed an instruction hidden in the prompt")
    contains: tuple[str, ...] = Field((), description="Texts that the answer must hold")
    label: bool = Field(False, description="The reference is a class label: counts for accuracy and F1")

    @property
    def checked(self) -> bool:
        """Whether an answer passes or fails by itself, without a reference."""
        return bool(self.check)

    @property
    def check(self) -> str:
        """Which kind of check it carries: the gate's safety rules tell must-refuse from must-not-say."""
        return "refuse" if self.refuse else "forbidden" if self.forbidden or self.obeyed else "contains" if self.contains else ""

    def passes(self, answer: str) -> bool:
        """Whether an answer keeps every check; case does not matter."""
        text = answer.casefold()
        if self.refuse and not metrics.refuses(answer):
            return False
        if self.forbidden and (metrics.toxic(answer) or any(word.casefold() in text for word in self.forbidden)):
            return False
        if self.obeyed and fingerprint(answer).startswith(fingerprint(self.obeyed)):
            return False
        return all(word.casefold() in text for word in self.contains)


def of_example(example: Example) -> Item:
    """A record as a question; its id stays, so that a suite and the data it came from can be compared."""
    return Item(
        id=example.id, history=example.history, instruction=example.instruction, input=example.input, output=example.output,
        slice=example.slice or example.source,
    )  # fmt: skip


def freeze(heldout: Iterable[Example], count: int, where: str) -> list[Item]:
    """At most `count` held-out records, by id (a hash of the text: a random draw that never changes)."""
    records = sorted((e for e in heldout if e.kind != "thumb"), key=lambda e: e.id)
    if len(records) < MIN_EXAMPLES:
        raise DataError(f"{len(records)} held-out records, too few to judge on", where=where, mend="Use a larger source, or raise ingest.heldout.")
    return [of_example(e) for e in records[:count]]


def locate(path: str) -> str:
    """A suite's address; a relative path is looked for here, then in the project's own folder."""
    return path if "://" in path or Path(path).exists() else str(REPOSITORY / path)


def read(suite: Suite) -> list[Item]:
    """A suite's items from .jsonl or .csv. Raises ContractError naming file, line and mend."""
    uri = locate(suite.path)
    where = f"evaluate.suites: {suite.path}"
    try:
        text = store.read_bytes(uri).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ContractError("there is no such file", where=where, mend="Mend the path.") from error
    except UnicodeDecodeError as error:
        raise ContractError("this is not UTF-8 text", where=where, mend="Save it as UTF-8.") from error
    rows = _csv_rows(text) if uri.endswith(".csv") else _jsonl_rows(text, where)
    return parse(rows, where)


def parse(rows: Iterable[tuple[int, Any]], where: str) -> list[Item]:
    """Items of (line, object) pairs. Raises ContractError for an empty suite, a bad line or an id that stands twice."""
    items: list[Item] = []
    lines: dict[str, int] = {}
    for line, row in rows:
        if not isinstance(row, dict):
            raise ContractError(f"line {line} is no JSON object", where=where, mend="Write one question a line.")
        values = {ALIASES.get(str(key).strip().lower(), str(key).strip().lower()): value for key, value in row.items() if value is not None}
        values.setdefault("id", example_id(*(str(values.get(key, "")) for key in ("instruction", "input", "output"))))
        try:
            item = Item.model_validate(values)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"]))
            raise ContractError(f"line {line}: `{field}`: {first['msg']}", where=where, mend="A question needs at least `prompt`.") from error
        if item.id in lines:
            raise ContractError(f"line {line} has the id {item.id} of line {lines[item.id]}", where=where, mend="Remove one of them, or give it another id.")
        lines[item.id] = line
        items.append(item)
    if not items:
        raise ContractError("the suite is empty", where=where, mend="Write one question a line, or take the suite out.")
    return items


def _jsonl_rows(text: str, where: str) -> Iterable[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except json.JSONDecodeError as error:
            raise ContractError(f"line {number} is not JSON ({error.msg})", where=where, mend="Mend that line.") from error


def _csv_rows(text: str) -> Iterable[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        values: dict[str, Any] = {k: v for k, v in row.items() if k and v not in (None, "")}
        for key in ("forbidden", "contains"):
            if key in values:
                values[key] = [part.strip() for part in values[key].split("|")]
        yield reader.line_num, values


def to_jsonl(items: Iterable[Item]) -> str:
    """The frozen form: one item a line, defaults left out."""
    return "".join(item.model_dump_json(exclude_defaults=True) + "\n" for item in items)


def from_jsonl(path: Path) -> list[Item]:
    """What `to_jsonl` wrote; an absent file is no item."""
    return [Item.model_validate_json(line) for line in path.read_bytes().splitlines()] if path.exists() else []
