"""The step of `clean` that takes out of training whatever overlaps an evaluation example, as `tasks.overlap` finds it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from flywheel.config.cleaning import Decontamination
from flywheel.errors import DataError
from tasks.cleaning.frame import Frame, named, table
from tasks.overlap import BATCH, Matcher, Matches, Overlap, Text, grouped

if TYPE_CHECKING:
    import daft

SHOWN = 5


def overlapping(frame: Frame, options: Decontamination, judged_on: list[Text]) -> list[Overlap]:
    """The training records left in a frame that overlap a held-out record of it, or a text of `judged_on`."""
    from daft import col

    held = frame.left.where("split = 'heldout'").select("id", "prompt", "answer").to_pydict()
    matcher = Matcher([*judged_on, *(Text(p, a, f"heldout:{i}") for i, p, a in zip(*held.values(), strict=True))], options)
    train = frame.left.where("split = 'train'").select("row", _matches(matcher)(col("row"), col("prompt"), col("answer")).alias("match"))
    found = train.where(col("match").not_null()).select("row", col("match")["sure"].alias("sure"), col("match")["runs"].alias("runs"))
    shared = table(found).sort_by("row")
    rows = np.from_dlpack(shared["row"].combine_chunks())
    sure = [(row, *one.values()) for row, several in zip(rows.tolist(), shared["sure"].to_pylist(), strict=True) for one in several]
    runs = shared["runs"].combine_chunks()
    return matcher.settle([Matches(sure, np.repeat(rows, np.asarray(runs.value_lengths().to_pylist(), int)), np.from_dlpack(runs.flatten()).astype(int))])


def _matches(matcher: Matcher) -> Any:
    """Matcher.match as a Daft function: null for a record that shares nothing."""
    import daft

    sure = daft.DataType.struct({"example": daft.DataType.int64(), "why": daft.DataType.string()})
    both = daft.DataType.struct({"sure": daft.DataType.list(sure), "runs": daft.DataType.list(daft.DataType.uint32())})

    @daft.func.batch(return_dtype=both, batch_size=BATCH)
    def matches(rows: daft.Series, prompts: daft.Series, answers: daft.Series) -> list[dict[str, Any] | None]:
        numbers = range(len(rows))
        match = matcher.match(numbers, prompts.to_pylist(), answers.to_pylist())
        found: list[dict[str, Any] | None] = [None] * len(rows)
        for number, runs in grouped(match.rows.astype(int), match.runs):
            found[number] = {"sure": [], "runs": runs.tolist()}
        for number, example, why in match.sure:
            one = found[number] = found[number] or {"sure": [], "runs": []}
            one["sure"].append({"example": example, "why": why})
        return found

    return matches


def decontaminate(frame: Frame, options: Decontamination, judged_on: list[Text]) -> daft.DataFrame:
    """The training records that overlap, with the example shown. Raises DataError with the pairs where the policy says stop."""
    overlaps = overlapping(frame, options, judged_on)
    if overlaps and options.policy == "stop":
        raise unresolved(frame, overlaps, "Take them out of the source, or set the policy of decontamination to reject.")
    first = {overlap.row: overlap for overlap in reversed(overlaps)}
    return named(list(first), [f"{one.why} {one.example.name}: {one.example.whole[:300]}" for one in first.values()])


def unresolved(frame: Frame, overlaps: list[Overlap], mend: str) -> DataError:
    """The error that shows which records overlap what."""
    from daft import col

    first = {overlap.row: overlap for overlap in reversed(overlaps)}
    some = frame.left.where(col("row").is_in(list(first))).select("row", "id", "prompt", "answer")
    shown = table(some).sort_by("id").slice(0, SHOWN).to_pylist()
    pairs = "; ".join(
        f"{r['id']} «{r['prompt'][:80]} {r['answer'][:80]}» {first[r['row']].why} {first[r['row']].example.name} «{first[r['row']].example.whole[:160]}»"
        for r in shown
    )
    return DataError(f"{len(first)} training records overlap evaluation examples: {pairs}", where="clean.steps: decontamination", mend=mend)
