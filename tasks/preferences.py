"""People compare the two models' answers, blind: `evaluate` writes the pairs, and reads the choices when it runs again.

The pairs are a JSON list that Label Studio imports; its export as JSON_MIN, or a JSONL file of the same fields, is what
`evaluate.preferences` names. A choice counts only for the very answers that were shown.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from flywheel import store
from flywheel.errors import ContractError

FAVOUR = {"left": 1.0, "right": 0.0, "tie": 0.5, "both bad": 0.5}


class Choice(BaseModel):
    """What one person chose between two answers to a question."""

    model_config = ConfigDict(extra="ignore")

    id: str
    left: str
    right: str
    choice: Literal["left", "right", "tie", "both bad"]


def blind(id: str, question: str, champion: str, challenger: str) -> dict[str, str]:
    """A pair to be judged. Which side is whose hangs on a hash, so that the same pair always looks the same."""
    swapped = hashlib.sha256(f"{id}\0{champion}\0{challenger}".encode()).digest()[0] % 2
    left, right = (challenger, champion) if swapped else (champion, challenger)
    return {"id": id, "question": question, "left": left, "right": right}


def read(path: str) -> list[Choice]:
    """People's choices. Raises ContractError naming the file and the entry."""
    where = f"evaluate.preferences: {path}"
    try:
        text = store.read_bytes(path).decode("utf-8-sig")
        entries = json.loads(text) if text.lstrip().startswith("[") else [json.loads(line) for line in text.splitlines() if line.strip()]
    except FileNotFoundError as error:
        raise ContractError("there is no such file", where=where, mend="Name Label Studio's JSON_MIN export, or a JSONL file.") from error
    except ValueError as error:
        raise ContractError(f"this is not JSON ({error})", where=where, mend="Export it again as JSON_MIN.") from error
    found = []
    for number, entry in enumerate(entries, 1):
        try:
            found.append(Choice.model_validate(entry))
        except ValidationError as error:
            field = ".".join(map(str, error.errors()[0]["loc"]))
            raise ContractError(f"entry {number}: `{field}`: {error.errors()[0]['msg']}", where=where, mend="It needs id, left, right and choice.") from error
    return found


def shares(choices: Iterable[Choice], answers: Mapping[str, tuple[str, str]]) -> dict[str, float]:
    """By question id, the share of people for whom the challenger's answer was the better one; a tie counts half.

    `answers` are the champion's and the challenger's answer of each question. Choices between other answers are left out.
    """
    votes: dict[str, list[float]] = {}
    for one in choices:
        champion, challenger = answers.get(one.id, ("", ""))
        if champion != challenger and {one.left, one.right} == {champion, challenger}:
            votes.setdefault(one.id, []).append(FAVOUR[one.choice] if one.left == challenger else 1 - FAVOUR[one.choice])
    return {id: sum(given) / len(given) for id, given in votes.items()}


def to_json(pairs: Iterable[dict[str, Any]]) -> str:
    """The pairs as a file that Label Studio imports."""
    return json.dumps(list(pairs), indent=1, ensure_ascii=False)
