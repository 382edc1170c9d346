"""The tokenized examples of a run, and which of them it learns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from flywheel import store
from flywheel.config import Train

Tokens = Sequence[int]
INPUT = {"sft": "train", "dpo": "preferences", "kto": "thumbs"}  # of `tokenize`'s outputs


@dataclass(frozen=True)
class Row:
    """A tokenized example; its tokens stay in the Arrow file until they are asked for.

    `tokens` are the prompt (so many of them) and an answer, `rejected` the same prompt and a worse one, `liked` what a thumb
    said, `left_out` how many of the prompt's first tokens were too many.
    """

    id: str
    tokens: Tokens = field(compare=False)
    prompt: int
    feedback: bool
    rejected: Tokens = field(default=(), compare=False)
    liked: bool | None = None
    left_out: int = 0

    @property
    def ids(self) -> list[int]:
        """Token ids of prompt and answer."""
        return list(map(int, self.tokens))

    @property
    def longest(self) -> int:
        """Tokens of its longest sequence."""
        return max(len(self.tokens), len(self.rejected))


def read(path: Path, objective: str = "sft") -> list[Row]:
    """The examples of an Arrow file, which is mapped into memory: only what a batch asks for is read."""
    import pyarrow as pa

    rows: list[Row] = []
    reader = pa.ipc.open_file(pa.memory_map(str(path)))
    for number in range(reader.num_record_batches):
        batch = reader.get_batch(number)
        names, left_out = batch["id"].to_pylist(), batch["left_out"].to_pylist()
        if objective == "sft":
            columns = (batch["prompt_length"].to_pylist(), batch["feedback"].to_pylist(), _lists(batch["input_ids"]))
            rows += [Row(name, ids, prompt, said, left_out=n) for name, n, prompt, said, ids in zip(names, left_out, *columns, strict=True)]
            continue
        prompts = list(map(list, _lists(batch["prompt_ids"])))
        pair = (_lists(batch[name]) for name in (("chosen_ids", "rejected_ids") if objective == "dpo" else ("completion_ids", "completion_ids")))
        answers = list(zip(*pair, strict=True))
        for i, (name, p) in enumerate(zip(names, prompts, strict=True)):
            worse = [*p, *answers[i][1]] if objective == "dpo" else ()
            liked = batch["label"][i].as_py() if objective == "kto" else None
            rows.append(Row(name, [*p, *answers[i][0]], len(p), False, worse, liked, left_out[i]))
    return rows


def _lists(column: object) -> list[Tokens]:
    """A list column as slices of its flat values, uncopied."""
    flat, starts = column.values.to_numpy(), column.offsets.to_pylist()  # type: ignore[attr-defined]
    return [flat[a:b] for a, b in pairwise(starts)]


def choose(rows: list[Row], learned: set[str], conf: Train, seed: int) -> list[Row]:
    """What this run learns: new examples, corrections first, and a share of earlier ones against forgetting."""
    order = sorted(rows, key=lambda r: store.sha256_text(str(seed), r.id))
    new = sorted((r for r in order if r.id not in learned), key=lambda r: not r.feedback)
    old = [r for r in order if r.id in learned]
    budget = conf.max_examples or len(rows)
    if not new:
        return old[:budget]
    chosen = new[: budget if not old else max(1, round(budget * (1 - conf.replay)))]
    wanted = round(len(chosen) * conf.replay / (1 - conf.replay)) if conf.replay < 1 else budget
    return chosen + old[: min(wanted, budget - len(chosen))]
