"""What cleaning costs, in CPU-seconds: duplicates beside datasketch and rensa, the whole stage, and how both grow.  make bench NAME=data

1. 100,000 records of about 370 characters, in pieces of docstrings, with 5,000 exact and 10,000 near duplicates planted and 2,000 look-alikes that must stay:
   exact and near duplicates, beside two peers in turn, each with recall and precision. All start from records that are read already.
2. The whole stage with every default step, as Airflow starts it, from 10,000 records to 1,000,000: CPU-seconds and peak memory.

`make bench NAME=data` takes most of half an hour; `PYTHONPATH=. .venv/ml/bin/python benchmarks/data.py 30000` stops at 30,000 records.
"""

from __future__ import annotations

import ast
import json
import os
import random
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from flywheel import manifest
from flywheel.config.cleaning import Engine, ExactDuplicates, NearDuplicates
from flywheel.records import Example, example_id
from tasks import likeness
from tasks.cleaning import duplicates
from tasks.cleaning.frame import Frame, start, table

DEDUPLICATED, SIZES = 100_000, (10_000, 30_000, 100_000, 300_000, 1_000_000)
EXACT, NEAR, LOOK_ALIKE = 0.05, 0.10, 0.02
WORDS, PIECE, QUESTION, SIMILARITY = 60, 10, 10, NearDuplicates().similarity
SEED = 20261124
Gone = Callable[[int], bool]  # whether a row was taken out


def english() -> list[str]:
    """The words of the standard library's docstrings, in their order."""
    trees = [ast.parse(path.read_bytes()) for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))]
    documented = (node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.Module))
    return [word for node in documented for word in (ast.get_docstring(node) or "").split() if word.strip(".,").isalpha()]


def changed(text: list[str], places: int, words: list[str], dice: random.Random) -> list[str]:
    """The text with so many words in a row replaced."""
    start = dice.randrange(QUESTION, WORDS - places)
    return [*text[:start], *(f"{dice.choice(words)}ing" for _ in range(places)), *text[start + places :]]


def write(path: Path, count: int) -> dict[str, int]:
    """A file of so many records in no order; which records are one, by id."""
    dice, words = random.Random(SEED), english()

    def text() -> list[str]:
        return [word for start in dice.choices(range(len(words) - PIECE), k=WORDS // PIECE) for word in words[start : start + PIECE]]

    near, exact, alike = int(count * NEAR), int(count * EXACT), int(count * LOOK_ALIKE)
    texts = [text() for _ in range(count - near - exact - alike)]
    groups = list(range(len(texts)))
    rows = list(zip(texts, groups, strict=True))
    rows += [(changed(text, dice.randint(1, 2), words, dice), group) for text, group in rows[:near]]  # Jaccard 0.87 to 0.97
    rows += [(changed(text, WORDS // 4, words, dice), len(texts) + group) for text, group in rows[near : near + alike]]  # about 0.55
    rows += rows[near + alike : near + alike + exact]
    dice.shuffle(rows)
    of: dict[str, int] = {}
    with open(path, "w") as file:
        for text, group in rows:
            question, answer = f"What is {' '.join(text[:QUESTION])}?", f"{' '.join(text[QUESTION:])}."
            example = Example(
                id=example_id(question, "", answer), instruction=question, output=answer, group=question, source="benchmark", licence="PSF-2.0",
                consent="published", split="heldout" if zlib.crc32(question.encode()) % 20 == 0 else "train",
            )  # fmt: skip
            of[example.id] = group
            file.write(example.model_dump_json() + "\n")
    return of


def found(groups: list[int], gone: list[bool]) -> tuple[float, float]:
    """Recall and precision of what was taken out: of each group all but one should go."""
    sizes, out = Counter(groups), Counter(group for group, went in zip(groups, gone, strict=True) if went)
    right = sum(min(out[group], size - 1) for group, size in sizes.items())
    return right / sum(size - 1 for size in sizes.values()), right / max(1, sum(out.values()))


def cpu_seconds(work: Callable[[], Gone]) -> tuple[float, Gone]:
    """CPU-seconds of this process, all its threads, and what came out."""
    before = time.process_time()
    gone = work()
    return time.process_time() - before, gone


def ours(frame: Frame) -> Gone:
    """What our two steps take out."""
    frame.reject("exact_duplicates", duplicates.exact(frame, ExactDuplicates()))
    frame.reject("near_duplicates", duplicates.near(frame, NearDuplicates()))
    left = set(table(frame.left.select("row"))["row"].to_pylist())
    return lambda row: row not in left


def shingles(text: str) -> list[str]:
    """What the peers are given: runs of three words."""
    words = text.split()
    return [" ".join(words[k : k + likeness.SIZE]) for k in range(len(words) - likeness.SIZE + 1)]


def datasketch(texts: dict[int, str]) -> Gone:
    """What datasketch finds to be like a record before it."""
    from datasketch import MinHash, MinHashLSH

    index, kept = MinHashLSH(threshold=SIMILARITY, num_perm=duplicates.HASHES, weights=(0.1, 0.9)), {}
    for row, text in texts.items():
        signature = MinHash(num_perm=duplicates.HASHES)
        signature.update_batch([shingle.encode() for shingle in shingles(text)])
        if not any(signature.jaccard(kept[other]) >= SIMILARITY for other in index.query(signature)):
            index.insert(row, signature, check_duplication=False)
            kept[row] = signature
    return lambda row: row not in kept


def rensa(texts: dict[int, str]) -> Gone:
    """What rensa finds to be like a record before it."""
    from rensa import RMinHash, RMinHashDeduplicator

    index, kept = RMinHashDeduplicator(SIMILARITY, duplicates.HASHES, True, 32), set()
    for row, text in texts.items():
        signature = RMinHash(duplicates.HASHES, 42)
        signature.update(shingles(text))
        if index.add(str(row), signature):
            kept.add(row)
    return lambda row: row not in kept


def deduplication(folder: Path, count: int) -> dict[str, dict[str, float]]:
    """Cost, recall and precision of each, one after the other, twice; the lesser cost counts."""
    of = write(folder / "records.jsonl", count)
    start(Engine(threads=1))
    costs: dict[str, list[float]] = {}
    quality: dict[str, tuple[float, float]] = {}
    for turn in range(2):
        frame = Frame(str(folder / "records.jsonl"), str(folder / f"scratch-{turn}"), count, Engine(threads=1))
        frame.judge(())
        known = table(frame.left.select("row", "id", "prompt", "answer")).to_pylist()
        groups, texts = [of[r["id"]] for r in known], {r["row"]: f"{r['prompt']} {r['answer']}" for r in known}
        work = {"ours": lambda frame=frame: ours(frame), "rensa": lambda texts=texts: rensa(texts), "datasketch": lambda texts=texts: datasketch(texts)}
        for name, do in work.items():
            cost, gone = cpu_seconds(do)
            costs.setdefault(name, []).append(cost)
            quality[name] = found(groups, [gone(r["row"]) for r in known])
            recall, precision = quality[name]
            print(f"{count:,} records, exact and near duplicates, {name}: {cost:.2f} CPU-seconds, recall {recall:.4f}, precision {precision:.4f}", flush=True)
    return {
        name: {"cpu_seconds": round(min(cost), 2), "recall": round(quality[name][0], 4), "precision": round(quality[name][1], 4)}
        for name, cost in costs.items()
    }


def whole_stage(folder: Path, count: int) -> tuple[float, float]:
    """CPU-seconds and peak memory (GB) of `python -m tasks.clean` with its default steps."""
    run = folder / "home" / "store" / "runs" / "bench" / str(count)
    records = run / "ingest" / "attempt-1" / "records.jsonl"
    records.parent.mkdir(parents=True)
    write(records, count)
    now, key = datetime.now(UTC), f"runs/bench/{count}"
    done = manifest.describe(records, f"{key}/ingest/attempt-1/records.jsonl", count)
    manifest.write(manifest.Manifest(stage="ingest", run_dir=key, attempt=1, cache_key="", outputs={"records": done}, started=now, ended=now), str(run))
    (folder / "config.yaml").write_text("ingest: {sources: [{kind: docs, licence: PSF-2.0, consent: published}]}\nclean: {engine: {threads: 1}}\n")
    command = [sys.executable, "-m", "tasks.clean", "--config", str(folder / "config.yaml"), "--run-dir", str(run)]
    peak, done_pid = 0.0, 0
    with open(folder / "said.txt", "w") as said:
        process = subprocess.Popen(command, env={**os.environ, "FLYWHEEL_HOME": str(folder / "home")}, stdout=said)
    while not done_pid:  # its own high-water mark: the one of its resource usage begins with this process's
        time.sleep(0.05)
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = max([peak, *(int(line.split()[1]) / 1e6 for line in status.splitlines() if line.startswith("VmHWM"))])
        done_pid, code, usage = os.wait4(process.pid, os.WNOHANG)
    if code:
        raise SystemExit((folder / "said.txt").read_text())
    shutil.rmtree(run)
    used = usage.ru_utime + usage.ru_stime
    print(f"{count:,} records, the whole stage: {used:.1f} CPU-seconds, {1e6 * used / count:.0f} a million, peak memory {peak:.2f} GB", flush=True)
    return used, peak


def main() -> int:
    """Print what was found, then the JSON; 1 when a goal is missed."""
    most = int(sys.argv[1]) if len(sys.argv) > 1 else SIZES[-1]
    with tempfile.TemporaryDirectory() as name:
        found = deduplication(Path(name), min(DEDUPLICATED, most))
        curve = {count: whole_stage(Path(name), count) for count in SIZES if count <= most}
    our = found.pop("ours")
    largest, middle = max(curve), min(DEDUPLICATED, most)
    growth = curve[largest][0] / curve[middle][0] * middle / largest if middle in curve else None
    met = (
        our["recall"] >= 0.99 and our["precision"] >= 0.99 and our["cpu_seconds"] <= 3 and curve[middle][0] <= 15
        and growth is not None and growth <= 1.1 and curve[largest][1] < 3
    )  # fmt: skip
    ours_ = {
        "duplicates": our, "stage_cpu_seconds": {str(n): round(used, 1) for n, (used, _) in curve.items()},
        "peak_gb": {str(n): round(peak, 2) for n, (_, peak) in curve.items()}, "growth_to_largest": growth and round(growth, 3),
    }  # fmt: skip
    ratios = {peer: round(figures["cpu_seconds"] / our["cpu_seconds"], 1) for peer, figures in found.items()}
    goal = "at 100,000: duplicates <= 3 CPU-s, recall and precision >= 0.99, stage <= 15 CPU-s; at 1,000,000: <= 11 times that, peak < 3 GB"
    print(json.dumps({"name": "data", "ours": ours_, "peers": found, "ratios": ratios, "goal": goal, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
