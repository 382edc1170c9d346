"""The engine of `clean`: every record as a row of a Daft frame, on one core, on all, or on a Ray cluster.

What grows with the data streams through Parquet files in a scratch folder: records, signatures, what is rejected and why. Held in
memory is only what a step has found: pairs that are alike, and the records of one range of ids while they are written in order.
A row has a number for joins; nothing that is decided hangs on it, so the order of rows, files and partitions never shows.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import fsspec

from flywheel import store
from flywheel.config.cleaning import Engine
from flywheel.config.steps import Step
from flywheel.errors import ContractError
from flywheel.records import Example
from tasks.cleaning import RECORD_STEPS
from tasks.cleaning.record import Judge, Texts
from tasks.likeness import reading

if TYPE_CHECKING:
    import daft
    import pyarrow as pa

BATCH = 2048
ROWS_A_WORKER = 25_000  # a process for the steps in Python pays off from so many rows
ROWS_A_PART = 100_000  # records in memory while they are written in order
FILE = 32 << 20  # bytes of a file in the scratch folder, about: what is read at a time
MALFORMED = "malformed"
_native: list[int | None] = []  # the threads that this process chose, which it does once
HASHED = ("prompt", "answer", "record")  # `prompt_hash` and so on save the steps from reading texts


class Row(NamedTuple):
    """What the steps know of a record. `rank`: of those that are one, the smallest stays (held-out, then from feedback, then by id)."""

    id: str
    split: str
    kind: str
    rank: str
    prompt: str
    answer: str
    record: str
    step: str
    reason: str
    changed: int


@lru_cache(maxsize=4)
def judges(steps: tuple[Step, ...]) -> tuple[tuple[str, Judge], ...]:
    """Each step's name and what it does to a record, made once a process."""
    return tuple((step.step, RECORD_STEPS[type(step)](step)) for step in steps)


def judged(line: str, steps: Sequence[tuple[str, Judge]]) -> Row:
    """A record after the steps (name and what it does), or at the one that rejects it; `changed` has a bit for each step that changed it."""
    try:
        example = Example.model_validate_json(line)
    except ValueError as error:
        return Row("", "", "", "", "", "", line, MALFORMED, " ".join(str(error).split())[:300], 0)
    before = texts = Texts(tuple([turn.content for turn in example.history]), example.instruction, example.input, example.output, example.rejected)
    changed, by, reason = 0, "", ""
    for number, (step, judge) in enumerate(steps):
        edited, reason = judge(texts)
        if edited is not texts:
            changed |= 1 << number
            texts = edited
            reason = reason or emptied(before, texts)
        if reason:
            by = step
            break
    if texts is not before:
        history = tuple(turn.model_copy(update={"content": text}) for turn, text in zip(example.history, texts.history, strict=True))
        example = example.edited(**{**texts._asdict(), "history": history})
    kind = example.kind if example.liked is None else f"{example.kind} {example.liked}"
    rank = f"{example.split != 'heldout':d}{not example.feedback_ids:d}{example.id}"
    prompt, answer = reading(*texts.history, texts.instruction, texts.input), reading(texts.output, texts.rejected)
    return Row(example.id, example.split, kind, rank, prompt, answer, line if texts is before else example.model_dump_json(), by, reason, changed)


def fault(step: str, before: int, rejected: int, left: int) -> ContractError:
    """The error for a sum that does not come out: in = out + rejected."""
    return ContractError(
        f"{before} records went in, {rejected} were rejected and {left} are left",
        where=f"clean.steps: {step}", mend="This is a fault of the program: please report it.",
    )  # fmt: skip


def emptied(before: Texts, after: Texts) -> str:
    """Which text that a record cannot do without was edited away; empty when none was."""
    gone = (name for name in ("instruction", "output", "rejected") if getattr(before, name) and not getattr(after, name))
    return next((f"nothing is left of the {name}" for name in gone), "")


def start(engine: Engine) -> None:
    """Make Daft run where the config says, without a word to anybody. Raises ContractError when there is no such cluster."""
    os.environ.update(DAFT_ANALYTICS_ENABLED="0", DAFT_PROGRESS_BAR="0", RAY_USAGE_STATS_ENABLED="0")
    import daft

    daft.set_execution_config(parquet_target_filesize=FILE, parquet_target_row_group_size=FILE)
    if engine.runner == "native":
        if not _native:
            daft.set_runner_native(engine.threads)
            _native.append(engine.threads)
        return
    import ray

    if not ray.is_initialized():
        try:
            ray.init(engine.address or None, include_dashboard=None if engine.address else False, log_to_driver=False, logging_level=logging.ERROR)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ContractError(f"no Ray cluster answers ({error})", where="clean.engine.address", mend="Mend the address, or start the cluster.") from error
    daft.set_runner_ray(noop_if_initialized=True)


def workers(engine: Engine, rows: int) -> int:
    """How many processes the steps in Python get."""
    if engine.runner == "ray":
        import ray

        return max(1, int(ray.cluster_resources().get("CPU", 1)))
    return max(1, min(engine.threads or os.cpu_count() or 1, rows // ROWS_A_WORKER))


@dataclass
class Frame:
    """Every record that came in: those still left, and those rejected so far with step and reason."""

    source: str
    scratch: str
    rows: int
    engine: Engine
    notes: dict[str, int] = field(default_factory=dict)  # what steps counted beside
    _base: daft.DataFrame | None = None
    _decided: list[daft.DataFrame] = field(default_factory=list)
    _ended: list[daft.DataFrame] = field(default_factory=list)
    _files: int = 0

    def save(self, name: str, frame: daft.DataFrame) -> daft.DataFrame:
        """Compute a frame once, into files of the scratch folder."""
        import daft

        self._files += 1
        paths = frame.write_parquet(store.join(self.scratch, f"{self._files:02d}-{name}")).to_pydict()["path"]
        return daft.read_parquet(paths) if paths else daft.from_arrow(frame.schema().to_pyarrow_schema().empty_table())

    @property
    def left(self) -> daft.DataFrame:
        """The records that no step has rejected: `row`, the fields of Row, and hashes of three of them."""
        assert self._base is not None
        left = self._base.where("step = ''")
        for decided in self._decided:
            left = left.join(decided, on="row", how="anti")
        return left

    def judge(self, steps: tuple[Step, ...]) -> list[dict[str, Any]]:
        """Run steps that look at one record at a time, in one pass; their counts."""
        import daft
        from daft.functions import hash as hashed
        from daft.functions import monotonically_increasing_id

        before = self.rows if self._base is None else self.left.count_rows()
        many = workers(self.engine, self.rows)
        verdict = _verdicts(steps, many)(daft.col("record"))
        if self._base is None:
            lines = daft.read_text(self.source)
            lines = lines.select(daft.col(lines.column_names[0]).alias("record"))
            lines = lines.into_partitions(many) if self.engine.runner == "ray" else lines
            table = lines.select(verdict).with_column("row", monotonically_increasing_id())
        else:
            self._ended.append(self._outcomes().where("step != ''"))
            table = self.left.select("row", "record").select("row", verdict)
        self._base, self._decided = self.save("records", table.with_columns({f"{name}_hash": hashed(daft.col(name)) for name in HASHED})), []
        found = self._base.groupby("step", "changed").agg(daft.col("row").count().alias("n"), daft.col("reason").min().alias("reason")).to_pylist()
        broken = next((group for group in found if group["step"] == MALFORMED), None)
        if broken:
            raise ContractError(f"{broken['n']} lines are no records ({broken['reason']})", where=self.source, mend="Run ingest again.")
        counts, left = [], before
        for number, step in enumerate(steps):
            rejected = sum(group["n"] for group in found if group["step"] == step.step)
            changed = sum(group["n"] for group in found if group["changed"] >> number & 1)
            counts.append({"step": step.step, "in": left, "changed": changed, "rejected": rejected, "out": left - rejected})
            left -= rejected
        self._balance(steps[-1].step if steps else "reading", before, before - left)
        return counts

    def reject(self, step: str, decided: daft.DataFrame) -> dict[str, Any]:
        """Take out the rows that a step which looks at the whole set names (`row`, `reason`); its counts."""
        from daft import lit

        before = self.left.count_rows()
        saved = self.save(step, decided.select("row", "reason", lit(step).alias("step")))
        self._decided.append(saved)
        rejected = saved.count_rows()
        self._balance(step, before, rejected)
        return {"step": step, "in": before, "changed": 0, "rejected": rejected, "out": before - rejected}

    def _balance(self, step: str, before: int, rejected: int) -> None:
        left = self.left.count_rows()
        if before != left + rejected:
            raise fault(step, before, rejected, left)

    def _outcomes(self) -> daft.DataFrame:
        """Every record of the last pass, with the step that rejected it and why, or empty texts."""
        from daft import col
        from daft.functions import coalesce

        assert self._base is not None
        table = self._base.select("row", "id", "split", "record", "step", "reason")
        for number, decided in enumerate(self._decided):
            theirs = decided.select("row", col("step").alias(f"step{number}"), col("reason").alias(f"reason{number}"))
            table = table.join(theirs, on="row", how="left").select(
                "row", "id", "split", "record",
                coalesce(col(f"step{number}"), col("step")).alias("step"), coalesce(col(f"reason{number}"), col("reason")).alias("reason"),
            )  # fmt: skip
        return table

    def ordered(self) -> Iterator[pa.Table]:
        """Every record with `id`, `split`, `record`, `step` and `reason` (empty for one that is kept), sorted by id, part by part."""
        import daft
        from daft.functions import left

        digits = 0
        while self.rows > ROWS_A_PART * 16**digits:
            digits += 1
        outcomes = self._outcomes()
        for ended in self._ended:
            outcomes = outcomes.concat(ended)
        parts = [outcomes]
        if digits:
            placed = outcomes.with_column("part", left(daft.col("id"), digits))
            files = placed.write_parquet(store.join(self.scratch, "outcomes"), partition_cols=["part"]).to_pydict()["path"]
            of: dict[str, list[str]] = {}
            for path in sorted(files):
                of.setdefault(path.rsplit("/", 1)[0], []).append(path)
            parts = [daft.read_parquet(paths) for paths in of.values()]
        for part in parts:
            found = table(part.select("id", "split", "record", "step", "reason"))
            yield found.sort_by([(name, "ascending") for name in ("id", "record", "step", "reason")])

    def close(self) -> None:
        """Delete the scratch folder."""
        fs, path = fsspec.core.url_to_fs(self.scratch)
        if fs.exists(path):
            fs.rm(path, recursive=True)


def _verdicts(steps: tuple[Step, ...], many: int) -> Any:
    """`judged` as a Daft function of a column of lines, in as many processes."""
    import daft
    import pyarrow as pa

    types = {int: daft.DataType.int64(), str: daft.DataType.string()}
    fields = {name: types[int if name == "changed" else str] for name in Row._fields}

    @daft.cls(use_process=many > 1, max_concurrency=many if many > 1 else None)
    class Verdicts:
        @daft.method.batch(return_dtype=daft.DataType.struct(fields), unnest=True, batch_size=BATCH)
        def of(self, lines: daft.Series) -> pa.Array:
            made = judges(steps)
            rows = [judged(line, made) for line in lines.to_pylist()]
            columns: Sequence[Sequence[Any]] = list(zip(*rows, strict=True)) or [[]] * len(Row._fields)
            series = (daft.Series.from_pylist(list(column), name, fields[name]) for name, column in zip(Row._fields, columns, strict=True))
            return pa.StructArray.from_arrays([one.to_arrow() for one in series], Row._fields)  # pyarrow.array would import pandas

    return Verdicts().of


def table(frame: daft.DataFrame) -> pa.Table:
    """A frame that fits into memory."""
    import pyarrow as pa

    schema = frame.schema().to_pyarrow_schema()
    return pa.Table.from_batches([batch.cast(schema) for batch in frame.to_arrow_iter()], schema)


def named(rows: Sequence[int], reasons: Sequence[str]) -> daft.DataFrame:
    """A frame of `row` and `reason`."""
    import daft

    types = {"row": daft.DataType.uint64(), "reason": daft.DataType.string()}
    return daft.from_pydict({name: daft.Series.from_pylist(list(some), name, types[name]) for name, some in (("row", rows), ("reason", reasons))})
