"""Prodigy's files: JSONL to annotate, and what `prodigy db-out` gives back.

    prodigy blocks review todo.jsonl …   with the blocks `choice` and `text_input` (field `edited`); then  prodigy db-out review > done.jsonl

A line that nobody changed is written as it was read, to the byte. Prodigy's hashes are kept and never made up: it makes them itself.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from flywheel.errors import ContractError
from flywheel.labelling.judgements import Judgement, Taken, take
from flywheel.labelling.project import VERDICTS
from flywheel.ledger.review import Decision, ReviewItem
from flywheel.store import sha256_text

TOOL = "prodigy"
VIEWS = ("choice", "blocks", "text", "html", "classification")
ANSWERS: dict[str, Decision] = {"accept": "approve", "reject": "reject", "ignore": "skip"}  # without options, of the task as it stands
assert set(ANSWERS.values()) < set(get_args(Decision))


@dataclass(frozen=True)
class Line:
    """A line of a file: its bytes, end of line included, and what it holds; None for an empty one."""

    raw: bytes
    task: dict[str, Any] | None

    def changed(self, **fields: Any) -> Line:
        """With these fields set, everything else where it was."""
        ending = self.raw[len(self.raw.rstrip(b"\r\n")) :]
        task = {**(self.task or {}), **fields}
        return Line(dump(task) + ending, task)


def dump(task: dict[str, Any]) -> bytes:
    """As Prodigy writes a task."""
    return json.dumps(task, separators=(",", ":")).encode()


def read(data: bytes, where: str) -> list[Line]:
    """The lines of a file. Raises ContractError that names the line which is no JSON object."""
    lines = []
    for number, raw in enumerate(data.splitlines(keepends=True), 1):
        text = raw.removeprefix(b"\xef\xbb\xbf").strip() if number == 1 else raw.strip()
        try:
            task = json.loads(text) if text else None
        except ValueError as error:
            raise ContractError(f"this is not JSON ({error})", where=f"{where}, line {number}", mend="Export it again with `prodigy db-out`.") from error
        if task is not None and not isinstance(task, dict):
            raise ContractError("this is no task", where=f"{where}, line {number}", mend="Export it again with `prodigy db-out`.")
        lines.append(Line(raw, task))
    return lines


def write(lines: Iterable[Line]) -> bytes:
    """The file of these lines."""
    return b"".join(line.raw for line in lines)


def tasks(items: Iterable[ReviewItem]) -> bytes:
    """What waits, for Prodigy to show."""
    return b"".join(dump(_task(item)) + b"\n" for item in items)


def _task(item: ReviewItem) -> dict[str, Any]:
    text = "\n\n".join(part for part in (item.prompt, item.input, f"The model: {item.response}") if part)
    text += f"\n\nProposed: {item.correction}" if item.correction else ""
    options = [{"id": verdict, "text": verdict} for verdict in VERDICTS]
    meta = {"item": item.id, "model_version": item.model_version, "reason": item.reason}
    return {"text": text, "options": options, "edited": item.correction or item.response, "shown": item.correction or item.response, "meta": meta}


def judgements(lines: Sequence[Line], where: str) -> dict[str, list[Judgement]]:
    """What annotators say, by item. Raises ContractError that names the line of another recipe."""
    found: dict[str, list[Judgement]] = defaultdict(list)
    for number, line in enumerate(lines, 1):
        if line.task is not None:
            item = _item(line.task, f"{where}, line {number}")
            found[item].append(_judgement(line.task, item))
    return found


def _item(task: dict[str, Any], where: str) -> str:
    view = task.get("_view_id", "choice")
    foreign = view if view not in VIEWS else next((name for name in ("spans", "relations", "image", "audio") if name in task), "")
    if foreign:
        mend = "Only what `flywheel review export` wrote, annotated with choices, can be taken in."
        raise ContractError(f"this is of another recipe ({foreign})", where=where, mend=mend)
    meta = task.get("meta")
    item = meta.get("item") if isinstance(meta, dict) else None
    if not isinstance(item, str) or not item:
        raise ContractError("`meta.item` is missing, so nobody knows what was judged", where=where, mend="Annotate what `flywheel review export` wrote.")
    if task.get("answer") not in ANSWERS:
        mend = "Use the output of `prodigy db-out`, not the file that was annotated."
        raise ContractError("`answer` is none of accept, reject, ignore", where=where, mend=mend)
    return item


def _judgement(task: dict[str, Any], item: str) -> Judgement:
    """A line's judgement. Prodigy's own answer `ignore` skips; otherwise the option that was chosen counts, where there are options."""
    annotator = str(task.get("_annotator_id") or task.get("_session_id") or "prodigy")
    chosen, edited, problem = task.get("accept"), str(task.get("edited") or "").strip(), ""
    decision: Decision | None = ANSWERS[task["answer"]]
    if decision != "skip" and task.get("options"):
        decision = chosen[0] if isinstance(chosen, list) and len(chosen) == 1 and chosen[0] in VERDICTS else None
        problem = "" if decision else "it has no verdict: choose one option, or ignore it"
    changed = bool(edited) and edited != str(task.get("shown") or "").strip()
    if decision == "edit" and not changed:
        problem = "it says edit and leaves the answer as it was"
    elif decision in ("approve", "reject") and changed:
        problem = f"it says {decision} and yet changes the answer"
    return Judgement(
        key=f"{task.get('_task_hash', item)}-{annotator}", annotator=annotator, changed=sha256_text(dump(task).decode()), decision=decision,
        correction=edited if decision == "edit" else None, problem=problem,
    )  # fmt: skip


def take_in(data: bytes, where: str, needed: int) -> Taken:
    """Take up a file of `db-out`; again, it changes nothing. Raises ContractError, before anything is taken, for a file of another recipe."""
    taken = Taken()
    for item, said in judgements(read(data, where), where).items():
        take(TOOL, item, said, needed, taken)
    return taken
