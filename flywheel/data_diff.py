"""What changed between two data set versions: records added, removed, and questions that are answered otherwise."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import Literal

from pydantic import BaseModel

from flywheel.datasets import Version
from flywheel.records import Example

Change = Literal["added", "removed", "changed"]
CHANGES: tuple[Change, ...] = ("added", "removed", "changed")
ROWS = 15  # of a table, for people


class Pair(BaseModel):
    """A record that changed: what it was in A, what it is in B."""

    instruction: str
    before: str | None
    after: str | None


class Diff(BaseModel):
    """From A to B."""

    a: str
    b: str
    same: int
    added: int
    removed: int
    changed: int
    by_source: dict[str, dict[Change, int]]
    by_slice: dict[str, dict[Change, int]]
    samples: dict[Change, list[Pair]]


def compare(a: Version, b: Version, samples: int) -> Diff:
    """Both are read once, a record at a time; kept are the ids of one, and what is in one alone.

    The same question with another answer, or on another side of the split, is changed.
    """
    old = {_key(e) for e in a.examples()}
    new: dict[bytes, list[Example]] = defaultdict(list)
    kept: set[bytes] = set()
    for e in b.examples():
        if _key(e) in old:
            kept.add(_key(e))
        else:
            new[_question(e)].append(e)
    totals: Counter[Change] = Counter()
    sources: dict[str, Counter[Change]] = defaultdict(Counter)
    slices: dict[str, Counter[Change]] = defaultdict(Counter)
    shown: dict[Change, list[Pair]] = {change: [] for change in CHANGES}

    def note(change: Change, e: Example, before: Example | None, after: Example | None) -> None:
        totals[change] += 1
        sources[e.source][change] += 1
        slices[e.slice or e.source][change] += 1
        if len(shown[change]) < samples:
            shown[change].append(Pair(instruction=e.instruction, before=_said(before), after=_said(after)))

    for e in a.examples():
        if _key(e) in kept:
            continue
        twins = new.get(_question(e))
        if twins:
            note("changed", e, e, twins.pop())
        else:
            note("removed", e, e, None)
    for twins in new.values():
        for e in twins:
            note("added", e, None, e)
    return Diff(a=a.id, b=b.id, same=len(kept), **{c: totals[c] for c in CHANGES}, by_source=_table(sources), by_slice=_table(slices), samples=shown)


def text(diff: Diff) -> str:
    """The diff for people."""
    lines = [f"{diff.a[:12]} → {diff.b[:12]}: {diff.added} added, {diff.removed} removed, {diff.changed} changed, {diff.same} the same"]
    for title, counts in (("source", diff.by_source), ("slice", diff.by_slice)):
        if counts:
            lines += ["", f"{title:30} {'added':>8} {'removed':>8} {'changed':>8}"]
            lines += [f"{_short(name, 30):30} {row['added']:8} {row['removed']:8} {row['changed']:8}" for name, row in list(counts.items())[:ROWS]]
            lines += [f"and {len(counts) - ROWS} more"] if len(counts) > ROWS else []
    for change, pairs in diff.samples.items():
        lines += ["", f"{change}, {len(pairs)} of {getattr(diff, change)}:"] if pairs else []
        for pair in pairs:
            lines.append(f"  {_short(pair.instruction)}")
            lines += [f"    {mark} {_short(answer)}" for mark, answer in (("-", pair.before), ("+", pair.after)) if answer is not None]
    return "\n".join(lines) + "\n"


def _key(e: Example) -> bytes:
    return bytes.fromhex(e.id) + e.split.encode()


def _question(e: Example) -> bytes:
    parts = [e.kind, e.instruction, e.input, *(f"{turn.role}\x1e{turn.content}" for turn in e.history)]
    return hashlib.sha256("\x1f".join(parts).encode()).digest()[:16]


def _said(e: Example | None) -> str | None:
    return None if e is None else e.output if e.split == "train" else f"({e.split}) {e.output}"


def _table(counts: dict[str, Counter[Change]]) -> dict[str, dict[Change, int]]:
    ordered = sorted(counts, key=lambda name: (-counts[name].total(), name))
    return {name: {change: counts[name][change] for change in CHANGES} for name in ordered}


def _short(words: str, most: int = 110) -> str:
    line = " ".join(words.split())
    return line if len(line) <= most else f"{line[: most - 1]}…"
