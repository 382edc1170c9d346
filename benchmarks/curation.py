"""Curation: what it costs, and what a crowd with adversaries does to it.  make bench NAME=curation

Cost: 100,000 records of a made-up crowd in a real PostgreSQL through the whole stage, claim and files included; CPU-seconds are this
process's own (the database has its own; embeddings are off, as by default). Harm: a fifth of the raters are up to something (always up, always down,
at random, a slogan in every correction); the same crowd without them is the clean one. Measured is the share of training records that are
right, in points, and how well wrong records are told from right ones (AUC). The peer is what most write first: the latest correction wins,
every thumb counts.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

from benchmarks.crowd import START, Crowd, crowd
from flywheel import config, ledger, stage
from flywheel.config import Curate
from flywheel.config.steps import Step
from flywheel.ledger.schema import answers, feedback
from flywheel.records import Example, Feedback, FeedbackIn
from flywheel.settings import REPOSITORY, settings
from tasks import curate as curate_stage
from tasks.curation import curate
from tasks.curation.desk import Desk, case_of

RECORDS, SEEDS = 100_000, range(5)
CPU_GOAL, LOSS_GOAL, AUC_GOAL = 30.0, 2.0, 0.90
TEXT_FREE = tuple(rule for rule in Curate().rules if rule.step not in ("personal", "near_duplicates"))  # there are neither in this crowd
NAIVE = tuple(rule for rule in Curate().rules if rule.step in ("corrections", "preferences", "thumbs"))


def curated(world: Crowd, rules: tuple[Step, ...] = TEXT_FREE) -> Desk:
    """A crowd's records after the rules."""
    desk = Desk([case_of(record) for record in world.records], START + timedelta(days=8))
    curate(desk, rules)
    return desk


def right(example: Example, world: Crowd) -> bool:
    """Whether a training record teaches something right."""
    if example.kind == "thumb":
        return example.liked == world.good[example.instruction]
    return example.output == world.answers[example.instruction] != example.rejected


def precision(desk: Desk, world: Crowd) -> float:
    """Share of the training records that are right."""
    return sum(right(example, world) for example in desk.examples) / len(desk.examples)


def auc(desk: Desk, world: Crowd) -> float:
    """The chance that a wrong record is thought less sure than a right one."""
    from scipy.stats import rankdata

    wrong = [world.wrong[case.record.id] for case in desk.cases]
    ranks = rankdata([-case.sure for case in desk.cases])
    bad = sum(wrong)
    return float((sum(rank for rank, is_bad in zip(ranks, wrong, strict=True) if is_bad) - bad * (bad + 1) / 2) / (bad * (len(wrong) - bad)))


def harm(seed: int, rules: tuple[Step, ...] = TEXT_FREE, **size: int) -> dict[str, float]:
    """What a fifth of adversaries costs: points of precision, the training set's size against the clean one, and the AUC."""
    hostile, clean = crowd(seed, **size), crowd(seed, adversaries=0.0, **size)
    ours, theirs = curated(hostile, rules), curated(clean, rules)
    lost = 100 * (precision(theirs, clean) - precision(ours, hostile))
    return {"points_lost": round(lost, 2), "size": round(len(ours.examples) / len(theirs.examples), 3), "auc": round(auc(ours, hostile), 4)}


def fill(records: list[Feedback]) -> None:
    """Put records, and the answers that they are about, into the ledger, and seal them."""
    names = [name for name in FeedbackIn.model_fields if name != "keep_until"]
    with ledger.transaction() as db:
        said = [{"id": r.answer_id, "prompt": r.prompt, "input": "", "response": r.response, "model_version": "1", "user": r.user} for r in records]
        db.execute(answers.insert(), said)
        given = [{"id": r.id, "idempotency_key": r.idempotency_key, "answer_id": r.answer_id, "at": r.timestamp} for r in records]
        bodies = [{**row, "body": r.model_dump(mode="json", include=set(names)), "keep_until": r.keep_until} for row, r in zip(given, records, strict=True)]
        db.execute(feedback.insert(), bodies)
    ledger.seal_segments()


def cost(records: int = RECORDS) -> dict[str, Any]:
    """CPU-seconds of the stage over so many records."""
    fill(crowd(0, questions=records // 5, raters=records // 50).records)
    conf = config.load(str(REPOSITORY / "config" / "flywheel.yaml"), ["curate.debounce_seconds=0", "curate.max_wait_hours=0"])
    began = time.process_time()
    done = stage.execute(curate_stage.STAGE, conf, f"{settings().store}/runs/feedback/bench")
    seconds = time.process_time() - began
    assert done.metrics["records"] == records, done.metrics
    return {"records": records, "cpu_seconds": round(seconds, 2), "examples": done.metrics["examples"]}


def main() -> int:
    """Print a line a part, then the JSON; 1 when a goal is missed."""
    from benchmarks.feedback import database

    with tempfile.TemporaryDirectory() as name:
        os.environ["FLYWHEEL_HOME"] = name
        with database(Path(name)):
            settings.cache_clear()
            spent = cost()
    print(f"stage: {spent}", flush=True)
    parts = {}
    for who, rules in (("ours", TEXT_FREE), ("peer", NAIVE)):
        parts[who] = [harm(seed, rules, questions=2000, raters=300) for seed in SEEDS]
        print(f"{who}: {parts[who]}", flush=True)
    worst = {
        who: {"points_lost": max(r["points_lost"] for r in found), "auc": min(r["auc"] for r in found), "size": min(r["size"] for r in found)}
        for who, found in parts.items()
    }
    met = spent["cpu_seconds"] <= CPU_GOAL and worst["ours"]["points_lost"] <= LOSS_GOAL and worst["ours"]["auc"] >= AUC_GOAL
    result = {
        "name": "curation",
        "ours": {**spent, **worst["ours"]},
        "peers": {"the latest correction, every thumb": worst["peer"]},
        "ratios": {"points_lost": round(worst["peer"]["points_lost"] / max(worst["ours"]["points_lost"], 0.01), 1)},
        "goal": f"{RECORDS:,} records in <= {CPU_GOAL:g} CPU-seconds; with 20 % adversaries <= {LOSS_GOAL:g} points lost, AUC >= {AUC_GOAL}, in the worst of {len(SEEDS)} seeds",
        "met": met,
    }
    print(json.dumps(result))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
