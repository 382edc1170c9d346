"""Thirty nights turn, with promotions; backfilled later, without any cache, killed in the middle and begun again, each comes to the same data and verdict.

make test-slow        (NIGHTS=10 in its environment makes them fewer)
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from flywheel import manifest, registry, store
from flywheel.ledger import BATCHES
from flywheel.records import Example, example_id
from flywheel.settings import REPOSITORY, settings
from tasks import clean, dataset, evaluate, gate, ingest, parity, register, rollout, tokenize, train
from tests.tasks.conftest import rows

pytestmark = pytest.mark.slow
NIGHTS, A_NIGHT = int(os.environ.get("NIGHTS", "30")), 12
FIRST = datetime(2026, 1, 1, 2, tzinfo=UTC)
TURN = (ingest, clean, tokenize, train, dataset, parity, evaluate, gate, register, rollout)
DATA = ("ingest", "clean", "tokenize")
BACKFILL = """
import json, sys
from importlib import import_module
from flywheel import config, stage
conf, nights, stages = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3].split()
for folder, changes in nights.items():
    for name in stages:
        stage.execute(import_module(name).STAGE, config.load(conf, changes), folder)
    print(folder, flush=True)
"""


def feedback_of(night: int, texts: list[dict[str, str]], home) -> None:
    """A batch as curate publishes it, claimed during the day before a night."""
    examples = [
        Example(
            id=example_id(t["instruction"], "", t["output"]), instruction=t["instruction"], output=t["output"], group=t["instruction"], slice="feedback",
            source="feedback", licence="given by the user", consent="given with the feedback", feedback_ids=(f"{night}-{i}",),
        )
        for i, t in enumerate(texts)
    ]  # fmt: skip
    path = home / "store" / "runs" / "curate" / f"{night}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(e.model_dump_json() + "\n" for e in examples))
    artifact = manifest.describe(path, store.relative(str(path)), len(examples))
    claimed = FIRST + timedelta(days=night, hours=-6)
    batch = {"id": f"{night:06d}", "claimed": claimed.isoformat(), "examples": artifact.model_dump(), "feedback": [], "segments": []}
    store.write_bytes(store.join(settings().store, BATCHES, f"{night:06d}.json"), json.dumps(batch).encode())


def verdict(run: str) -> dict:
    return json.loads(manifest.read_for(run, "gate").outputs["verdict"].fetch(settings().home / "cache").read_text())


def data(run: str) -> dict:
    """What the night learned from, by hash."""
    return {f"{name}.{output}": a.sha256 for name in DATA for output, a in manifest.read_for(run, name).outputs.items()}


def backfill(conf: str, nights: dict[str, list[str]], kill_after: int | None) -> int:
    """In a process of its own; killed somewhere in the night after so many. How many nights it came through."""
    command = [sys.executable, "-c", BACKFILL, conf, json.dumps(nights), " ".join(module.__name__ for module in TURN)]
    process = subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stdout=subprocess.PIPE, text=True)
    done = 0
    for _ in process.stdout:
        done += 1
        if done == kill_after:
            time.sleep(random.Random(done).uniform(0.5, 3))
            process.kill()
    assert process.wait() == (-9 if kill_after else 0)
    return done


def test_a_backfill_of_thirty_nights_reproduces_data_and_verdicts_also_after_a_crash(wheel, home):
    texts = rows(240 + NIGHTS * A_NIGHT, 3)
    (home / "records.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts[:240]))
    for night in range(1, NIGHTS + 1):
        feedback_of(night, texts[240 + (night - 1) * A_NIGHT : 240 + night * A_NIGHT], home)
    ends = [f'ingest.interval_end="{(FIRST + timedelta(days=night)).isoformat()}"' for night in range(NIGHTS)]
    # Small steps, so that some nights win and some do not.
    changes = ("train.learning_rate=0.003", "train.epochs=1", "train.max_examples=60")
    runs = [wheel(f"night_{night}", end, *changes, stages=TURN) for night, end in enumerate(ends)]
    lived = [(data(run), verdict(run)) for run in runs]
    champion = registry.alias("champion")
    kinds = [v["verdict"] for _, v in lived]
    print("\n" + " ".join(kinds))
    assert {"promote", "hold"} <= set(kinds)
    shutil.rmtree(home / "store" / "cache")
    shutil.rmtree(home / "cache", ignore_errors=True)
    nights = {f"{settings().store}/runs/t/backfill_{night}": [end, *changes, "rollout.enabled=false"] for night, end in enumerate(ends)}
    cut = backfill(str(home / "c.yaml"), nights, NIGHTS // 2)
    assert NIGHTS // 2 <= cut < NIGHTS
    assert backfill(str(home / "c.yaml"), nights, None) == NIGHTS  # the same command again: what is done is found
    again = [(data(run), verdict(run)) for run in nights]
    same = sum(a == b for a, b in zip(lived, again, strict=True))
    print(f"killed after {cut} nights; {same} of {NIGHTS} reproduced, the data by hash and the verdicts figure by figure")
    assert [v["verdict"] for _, v in again] == kinds and same == NIGHTS
    assert registry.alias("champion") == champion
