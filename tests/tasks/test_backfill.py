"""Thirty nights turn, with promotions; backfilled later, without any cache, each comes to the same verdict.  make test-slow"""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime, timedelta

import pytest

from flywheel import manifest, registry, store
from flywheel.ledger import BATCHES
from flywheel.records import Example, example_id
from flywheel.settings import settings
from tasks import clean, dataset, evaluate, gate, ingest, parity, register, rollout, tokenize, train
from tests.tasks.conftest import rows

pytestmark = pytest.mark.slow
NIGHTS, A_NIGHT = 30, 12
FIRST = datetime(2026, 1, 1, 2, tzinfo=UTC)
TURN = (ingest, clean, tokenize, train, dataset, parity, evaluate, gate, register, rollout)


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


def test_a_backfill_of_30_nights_reproduces_every_verdict(wheel, home):
    texts = rows(240 + NIGHTS * A_NIGHT, 3)
    (home / "records.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts[:240]))
    for night in range(1, NIGHTS + 1):
        feedback_of(night, texts[240 + (night - 1) * A_NIGHT : 240 + night * A_NIGHT], home)
    ends = [f'ingest.interval_end="{(FIRST + timedelta(days=night)).isoformat()}"' for night in range(NIGHTS)]
    # Small steps, so that some nights win and some do not.
    changes = ("train.learning_rate=0.003", "train.epochs=1", "train.max_examples=60")
    lived = [verdict(wheel(f"night_{night}", end, *changes, stages=TURN)) for night, end in enumerate(ends)]
    champion = registry.alias("champion")
    kinds = [v["verdict"] for v in lived]
    print("\n" + " ".join(kinds))
    assert {"promote", "hold"} <= set(kinds)
    shutil.rmtree(home / "store" / "cache")
    shutil.rmtree(home / "cache", ignore_errors=True)
    again = [verdict(wheel(f"backfill_{night}", end, *changes, "rollout.enabled=false", stages=TURN)) for night, end in enumerate(ends)]
    same = sum(a == b for a, b in zip(lived, again, strict=True))
    print(f"{same} of {NIGHTS} verdicts reproduced, figure by figure")
    assert [v["verdict"] for v in again] == kinds and same == NIGHTS
    assert registry.alias("champion") == champion
