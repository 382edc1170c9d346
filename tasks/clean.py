"""Reject what should not be learned from: too short or long, exact and near duplicates, and what leaks into the held-out set.

    python -m tasks.clean --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Outputs: `train`, `heldout`, `reserve` (JSONL of Example) and `quarantine` (JSONL of id, step, reason, record). In = out + rejected.
"""

from __future__ import annotations

import json
import unicodedata
from collections import Counter
from collections.abc import Iterable
from functools import cache

from flywheel import stage
from flywheel.config import Clean
from flywheel.errors import DataError
from flywheel.records import Example, fingerprint, question
from tasks import likeness

Reject = tuple[Example, str, str]
BANDS, ROWS = 32, 4


def normalise(example: Example) -> Example:
    """NFC, no control characters, no space at the ends; the id follows the text."""
    import ftfy

    def tidy(text: str) -> str:
        text = "".join(c for c in text if c in "\n\t" or not unicodedata.category(c).startswith("C"))
        fixed = text if text.isascii() else unicodedata.normalize("NFC", ftfy.fix_text(text))
        return fixed.strip() if fixed == text else tidy(fixed)  # what was mended may have more to mend

    return example.edited(**{field: tidy(getattr(example, field)) for field in ("instruction", "input", "output")})


def wrong_length(example: Example, conf: Clean) -> str:
    """Why an answer's length rules it out, or an empty string."""
    size = len(example.output)
    if not example.instruction:
        return "the instruction is empty"
    if size < conf.min_output_chars:
        return f"{size} characters, fewer than {conf.min_output_chars}"
    return f"{size} characters, more than {conf.max_output_chars}" if size > conf.max_output_chars else ""


def exact_duplicates(examples: Iterable[Example]) -> tuple[list[Example], list[Reject]]:
    """Keep the first of records that read the same; a corrected one (with feedback) before others."""
    seen: dict[str, str] = {}
    kept, rejected = [], []
    for example in sorted(examples, key=lambda e: not e.feedback_ids):
        key = "\x1f".join(map(fingerprint, (example.instruction, example.input, example.output)))
        if key in seen:
            rejected.append((example, "exact duplicate", f"the same as {seen[key]}"))
        else:
            seen[key] = example.id
            kept.append(example)
    return kept, rejected


def near_duplicates(examples: list[Example], similarity: float) -> tuple[list[Example], list[Reject]]:
    """Keep one of records whose 3-word shingles overlap by at least `similarity`: MinHash (Daft), banding, then the true Jaccard."""
    import daft
    from daft.functions import minhash

    texts = [fingerprint(f"{e.instruction} {e.input} {e.output}") for e in examples]
    frame = daft.from_pydict({"text": texts})
    hashes = frame.select(minhash(frame["text"], num_hashes=BANDS * ROWS, ngram_size=3, seed=1).alias("h")).to_pydict()["h"]
    grams = cache(lambda i: likeness.grams(texts[i].split()))

    def jaccard(a: int, b: int) -> float:
        return likeness.jaccard(grams(a), grams(b))

    buckets: dict[tuple[int, tuple[int, ...]], list[int]] = {}
    kept, rejected = [], []
    for i, (example, row) in enumerate(zip(examples, hashes, strict=True)):
        keys = [(band, tuple(row[band * ROWS : (band + 1) * ROWS])) for band in range(BANDS)]
        candidates = dict.fromkeys(j for key in keys for j in buckets.get(key, ()))
        twin = next((j for j in candidates if jaccard(i, j) >= similarity), None)
        if twin is not None:
            rejected.append((example, "near duplicate", f"{jaccard(i, twin):.2f} like {examples[twin].id}"))
            continue
        kept.append(example)
        for key in keys:
            buckets.setdefault(key, []).append(i)
    return kept, rejected


def leaks(examples: list[Example]) -> tuple[list[Example], list[Reject]]:
    """Training records whose question is also asked in the held-out set: learning them would be cheating."""
    asked = {question(e.instruction, e.input) for e in examples if e.split == "heldout"}
    kept, rejected = [], []
    for example in examples:
        if example.split == "train" and question(example.instruction, example.input) in asked:
            rejected.append((example, "held out", "the held-out set asks the same"))
        else:
            kept.append(example)
    return kept, rejected


def run(ctx: stage.Context) -> None:
    """Apply every step, count, and write."""
    conf = ctx.config.clean
    read = [Example.model_validate_json(line) for line in ctx.fetch("ingest.records").read_bytes().splitlines()]
    ctx.say(f"cleaning {len(read)} records")
    rejected: list[Reject] = []
    examples = []
    for example in map(normalise, read):
        reason = wrong_length(example, conf)
        if reason:
            rejected.append((example, "length", reason))
        else:
            examples.append(example)
    examples, out = exact_duplicates(examples)
    rejected += out
    if conf.near_duplicates < 1:
        examples, out = near_duplicates(examples, conf.near_duplicates)
        rejected += out
    examples, out = leaks(examples)
    rejected += out
    if len(examples) + len(rejected) != len(read):
        raise AssertionError("a record vanished without a count")

    with open(ctx.path("quarantine.jsonl"), "w") as file:
        file.writelines(json.dumps({"id": e.id, "step": step, "reason": reason, "record": e.model_dump(mode="json")}) + "\n" for e, step, reason in rejected)
    steps = Counter(step for _, step, _ in rejected)
    ctx.say(f"kept {len(examples)}, rejected {len(rejected)}: " + (", ".join(f"{n} {step}" for step, n in steps.most_common()) or "none"))
    by_split = {split: sorted((e for e in examples if e.split == split), key=lambda e: e.id) for split in ("train", "heldout", "reserve")}
    _enough(conf, len(read), len(rejected), len(by_split["train"]), str(ctx.path("quarantine.jsonl")))
    for split, chosen in by_split.items():
        path = ctx.path(f"{split}.jsonl")
        with open(path, "w") as file:
            file.writelines(e.model_dump_json() + "\n" for e in chosen)
        ctx.output(split, path, len(chosen))
        ctx.metrics[split] = len(chosen)
    ctx.output("quarantine", ctx.path("quarantine.jsonl"), len(rejected))
    ctx.metrics |= {"rejected": len(rejected), **{f"rejected.{step.replace(' ', '_')}": n for step, n in steps.items()}}


def _enough(conf: Clean, read: int, rejected: int, train: int, quarantine: str) -> None:
    if rejected > conf.max_rejected * read:
        raise DataError(
            f"{rejected} of {read} records were rejected, more than clean.max_rejected allows", where=quarantine, mend="See the reasons there; mend the source."
        )
    if train < conf.min_records:
        raise DataError(
            f"{train} clean training records, fewer than clean.min_records ({conf.min_records})", where=quarantine, mend="Add records, or lower the limit."
        )


STAGE = stage.Stage("clean", run, needs=("ingest",))
if __name__ == "__main__":
    stage.main(STAGE)
