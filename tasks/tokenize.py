"""Look the data set over, then turn its records into token ids with the one prompt renderer.

    python -m tasks.tokenize --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Outputs, Arrow files that a trainer maps into memory: `train` (input_ids: prompt and answer; prompt_length; feedback), and where there
are such records `preferences` (prompt_ids, chosen_ids, rejected_ids) and `thumbs` (prompt_ids, completion_ids, label). `left_out` is how
many of the prompt's first tokens were left out. `lengths` (JSON) has the figures of every length, `checks` (JSON) what was found.
The data set is looked over here, since nothing after this door asks before it spends money on training.
"""

from __future__ import annotations

import json
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from flywheel import base_model, datasets, prompt, stage
from flywheel.config import Tokenize
from flywheel.errors import DataError
from flywheel.manifest import Artifact
from flywheel.records import Example, Kind
from tasks import validation

BATCH = 1000  # records read, encoded and written together: memory does not grow with the data
COLUMNS: dict[Kind, tuple[str, dict[str, str]]] = {
    "supervised": ("train", {"id": "string", "input_ids": "ids", "prompt_length": "int32", "left_out": "int32", "feedback": "bool"}),
    "preference": ("preferences", {"id": "string", "prompt_ids": "ids", "chosen_ids": "ids", "rejected_ids": "ids", "left_out": "int32"}),
    "thumb": ("thumbs", {"id": "string", "prompt_ids": "ids", "completion_ids": "ids", "label": "bool", "left_out": "int32"}),
}
Row = dict[str, Any]


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """Another base model has another tokenizer; the data set is compared with the last one that was accepted."""
    found = {"base": base_model.identity(ctx.config.model.base)}
    before = datasets.reference_for(ctx.upstream("clean").outputs, ctx.config.ingest.interval_end)
    return found | ({f"reference.{before.id}": before.profile} if before else {})


def fit(question: list[int], answers: Sequence[list[int]], limit: int, policy: str) -> tuple[list[int], list[list[int]], int] | None:
    """A prompt and its answers within the limit, and how many of the prompt's first tokens were left out; None leaves out the record.

    `drop` leaves out what is too long, `cut` takes from the answers' ends, `left` from the prompt's beginning: the oldest turns go first.
    """
    over = len(question) + max(map(len, answers)) - limit
    if over <= 0:
        return question, list(answers), 0
    if policy == "left" and over < len(question):
        return question[over:], list(answers), over
    if policy == "cut" and len(question) < limit:
        return question, [ids[: limit - len(question)] for ids in answers], 0
    return None


class Lengths:
    """Tokens of every record's prompt and answer, and of both together, before anything is cut."""

    def __init__(self) -> None:
        self.tokens = {"prompt": array("I"), "answer": array("I"), "both": array("I")}

    def add(self, question: int, answer: int) -> None:
        """One record more."""
        for name, size in (("prompt", question), ("answer", answer), ("both", question + answer)):
            self.tokens[name].append(size)

    def figures(self, limit: int) -> dict[str, Any]:
        """Quantiles and a histogram of each, and the share over the limit."""
        import numpy as np

        sizes = {name: np.frombuffer(tokens, dtype=np.uint32) for name, tokens in self.tokens.items()}
        edges = np.linspace(0, max(1, np.quantile(sizes["both"], 0.99)), 41)  # the last bin has the longest hundredth, too
        found: dict[str, Any] = {"limit": limit, "edges": edges.tolist(), "over_limit": float(np.mean(sizes["both"] > limit))}
        for name, values in sizes.items():
            quantiles = dict(zip(("min", "median", "p95", "p99", "max"), np.quantile(values, (0, 0.5, 0.95, 0.99, 1)).tolist(), strict=True))
            found[name] = {**quantiles, "counts": np.histogram(np.minimum(values, edges[-1]), bins=edges)[0].tolist()}
        return found


class Files:
    """The Arrow file of each kind of record, opened when there is a first row of it."""

    def __init__(self, ctx: stage.Context) -> None:
        self.ctx, self.stack, self.rows = ctx, ExitStack(), Counter[Kind]()
        self.open: dict[Kind, tuple[Any, Any]] = {}

    def write(self, kind: Kind, rows: list[Row]) -> None:
        """One record batch."""
        import pyarrow as pa

        if not rows:
            return
        if kind not in self.open:
            name, columns = COLUMNS[kind]
            types = {"string": pa.string(), "ids": pa.list_(pa.int32()), "int32": pa.int32(), "bool": pa.bool_()}
            schema = pa.schema({column: types[of] for column, of in columns.items()})
            sink = self.stack.enter_context(pa.OSFile(str(self.ctx.path(f"{name}.arrow")), "wb"))
            self.open[kind] = (schema, self.stack.enter_context(pa.ipc.new_file(sink, schema)))
        schema, writer = self.open[kind]
        writer.write_batch(pa.RecordBatch.from_pylist(rows, schema=schema))
        self.rows[kind] += len(rows)

    def close(self) -> None:
        """Finish every file and record it as an output."""
        self.stack.close()
        for kind in self.open:
            name = COLUMNS[kind][0]
            self.ctx.output(name, self.ctx.path(f"{name}.arrow"), self.rows[kind])


def batches(path: Path) -> Iterator[list[Example]]:
    """The records of a JSONL file, some at a time."""
    with open(path, "rb") as file:
        while lines := list(islice(file, BATCH)):
            yield [Example.model_validate_json(line) for line in lines]


def encoded(examples: Sequence[Example], tokenizer: Any, style: prompt.Style) -> Iterator[tuple[Example, list[int], list[list[int]]]]:
    """Each record with its prompt and its answers, the rejected one last, as token ids."""
    questions = prompt.encode_all(tokenizer, [prompt.messages(e.instruction, e.input, e.history) for e in examples], style)
    texts = [[e.output, e.rejected] if e.kind == "preference" else [e.output] for e in examples]
    answers = iter(prompt.encode_answers(tokenizer, [text for pair in texts for text in pair]))
    for example, question, pair in zip(examples, questions, texts, strict=True):
        yield example, question, [next(answers) for _ in pair]


def row(example: Example, question: list[int], answers: list[list[int]], left_out: int) -> Row:
    """What its kind's file keeps of a record."""
    common = {"id": example.id, "left_out": left_out}
    if example.kind == "preference":
        return {**common, "prompt_ids": question, "chosen_ids": answers[0], "rejected_ids": answers[1]}
    if example.kind == "thumb":
        return {**common, "prompt_ids": question, "completion_ids": answers[0], "label": bool(example.liked)}
    return {**common, "input_ids": question + answers[0], "prompt_length": len(question), "feedback": bool(example.feedback_ids)}


def look_over(ctx: stage.Context, conf: Tokenize) -> None:
    """Validate the data set as a whole; a check whose policy is `stop` ends the turn before training."""
    reference = datasets.reference_of(ctx.inputs)
    before = datasets.Profile.model_validate_json(ctx.fetch(f"reference.{reference}").read_bytes()) if reference else None
    profile, findings = validation.look_over(ctx.fetch("clean.train"), conf.validation, before)
    ctx.path("checks.json").write_text(json.dumps([finding.model_dump() for finding in findings], indent=1))
    ctx.path("profile.json").write_text(profile.model_dump_json())
    for finding in findings:
        if finding.outcome in ("warn", "stop"):
            ctx.say(f"  {finding.outcome}: {finding.text}")
    stops = [finding for finding in findings if finding.outcome == "stop"]
    if stops:
        mend = f"Look at the sources; or take {', '.join(f.name for f in stops)} out of tokenize.validation.stop."
        raise DataError("; ".join(f.text for f in stops), where=str(ctx.path("checks.json")), mend=mend)
    ctx.output("checks", ctx.path("checks.json"), len(findings))
    ctx.output("profile", ctx.path("profile.json"))
    ctx.metrics["warnings"] = sum(finding.outcome == "warn" for finding in findings)


def run(ctx: stage.Context) -> None:
    """Look over, render, encode, and leave out or shorten what is too long."""
    conf, model = ctx.config.tokenize, ctx.config.model
    look_over(ctx, conf)
    tokenizer = prompt.load_tokenizer(base_model.local_folder(model.base, ctx.cache))
    files, lengths, seen = Files(ctx), Lengths(), Counter[str]()
    for examples in batches(ctx.fetch("clean.train")):
        rows: dict[Kind, list[Row]] = {kind: [] for kind in COLUMNS}
        for example, question, answers in encoded(examples, tokenizer, model.prompt):
            longest = max(map(len, answers))
            lengths.add(len(question), longest)
            seen["too_long"] += len(question) + longest > model.max_length
            fitted = fit(question, answers, model.max_length, conf.truncate)
            if fitted is None:
                seen["dropped"] += 1
                continue
            question, kept, left_out = fitted
            seen["shortened"] += left_out > 0
            seen["cut"] += kept != answers
            seen["tokens"] += len(question) + sum(map(len, kept)) if example.kind == "supervised" else 0
            rows[example.kind].append(row(example, question, kept, left_out))
        for kind, found in rows.items():
            files.write(kind, found)
        ctx.progress(f"  {files.rows.total()} records")
    if not files.rows["supervised"]:
        raise DataError(
            f"no example is left to learn: {seen['dropped']} are longer than {model.max_length} tokens",
            where="model.max_length", mend="Raise it, or set tokenize.truncate to left or cut.",
        )  # fmt: skip
    files.close()
    figures = lengths.figures(model.max_length)
    ctx.path("lengths.json").write_text(json.dumps(figures))
    ctx.output("lengths", ctx.path("lengths.json"))
    what = ", ".join(f"{seen[name]} {name}" for name in ("dropped", "cut", "shortened") if seen[name]) or "none"
    ctx.say(f"{files.rows['supervised']} examples, {seen['tokens']} tokens; longer than {model.max_length} tokens: {seen['too_long']} ({what})")
    ctx.metrics |= {"examples": files.rows["supervised"], "preferences": files.rows["preference"], "thumbs": files.rows["thumb"]}
    ctx.metrics |= {name: seen[name] for name in ("tokens", "too_long", "dropped", "cut", "shortened")}
    ctx.metrics |= {f"length.{name}": figures["both"][name] for name in ("min", "median", "p95", "p99", "max")}


STAGE = stage.Stage("tokenize", run, needs=("clean",), extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
