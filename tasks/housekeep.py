"""Housekeeping: forget what was kept as long as it may be, delete what is old and needed by nothing living, tidy the databases, report the store.

    python -m tasks.housekeep --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/housekeep --set housekeep.delete=false

Outputs: `proof` (JSON: what was forgotten, by id and hash; it is in `feedback/forgotten` of the store, too), `storage` (JSON: the store by
area) and `deleted` (JSONL: every file that went, and why). MLflow, when it is away, is told later by the service. A kill leaves no harm:
the next run finds what was left.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import sqlalchemy as sa

from flywheel import forgetting, ledger, retention, stage, store
from flywheel.errors import TransientError
from flywheel.laptop import services
from flywheel.ledger import segments
from flywheel.manifest import Artifact
from flywheel.settings import settings

GIB = 2**30


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """Each run looks anew: what has expired hangs on the clock."""
    return {"moment": Artifact(uri=ctx.run_dir, sha256=store.sha256_text(ctx.run_dir), bytes=0)}


def run(ctx: stage.Context) -> None:
    """Forget, delete, tidy, report."""
    now = datetime.now(UTC)
    forget(ctx)
    plan = retention.plan(ctx.config.housekeep, now, retention.known())
    delete(ctx, plan, now)
    tidy(ctx, now)
    ctx.path("storage.json").write_text(json.dumps(plan.areas(), indent=1) + "\n")
    ctx.output("storage", ctx.path("storage.json"))


def forget(ctx: stage.Context) -> None:
    """What has expired, and whom a restored backup brought back; keep the proof."""
    brought_back = forgetting.again("housekeeping")
    proof = forgetting.forget("housekeeping", ctx.config.housekeep.reason, expired=True)
    ctx.path("proof.json").write_text(json.dumps(proof, indent=1) + "\n")
    ctx.output("proof", ctx.path("proof.json"), len(proof["records"]))
    ctx.say(f"{len(proof['records'])} records were kept long enough and are forgotten; MLflow has still to be told of {len(proof['pending'])}")
    if brought_back:
        ctx.say(f"{len(brought_back)} forgettings were done again, since a backup had brought them back: proofs {', '.join(brought_back)}")
    ctx.metrics |= {"forgotten": len(proof["records"]), "again": len(brought_back)}
    ctx.metrics |= {"pending": len(proof["pending"]), "versions": len(proof["versions"])}


def delete(ctx: stage.Context, plan: retention.Plan, now: datetime) -> None:
    """Files first named, then deleted; segments by the ledger."""
    conf = ctx.config.housekeep
    ctx.path("deleted.jsonl").write_text("".join(json.dumps({"key": k, "why": why, "bytes": plan.sizes[k]}) + "\n" for k, why in plan.remove.items()))
    ctx.output("deleted", ctx.path("deleted.jsonl"), len(plan.remove))
    for why in sorted(set(plan.remove.values())):
        keys = [key for key, reason in plan.remove.items() if reason == why]
        ctx.say(f"{'deleted' if conf.delete else 'would delete'} {len(keys)} files ({sum(plan.sizes[k] for k in keys) / GIB:.2f} GiB): {why}")
    if conf.delete:
        for number, key in enumerate(plan.remove):
            store.remove(store.join(settings().store, key))
            ctx.progress(f"{number + 1} of {len(plan.remove)} files are deleted")
    archived = segments.archive(now - timedelta(days=conf.segment_days)) if conf.segment_days and conf.delete else []
    ctx.metrics |= {"deleted": len(plan.remove) if conf.delete else 0, "bytes": sum(plan.sizes[k] for k in plan.remove), "segments": len(archived)}


def tidy(ctx: stage.Context, now: datetime) -> None:
    """Old reads of features; what Airflow remembers of old runs."""
    days = ctx.config.housekeep.database_days
    if days is None or not ctx.config.housekeep.delete:
        return None
    before = now - timedelta(days=days)
    with ledger.transaction() as db:
        ctx.metrics["feature_reads"] = db.execute(sa.text("delete from feature_reads where at < :before"), {"before": before}).rowcount
    if not Path(services.airflow_python()).exists():
        return ctx.say("Airflow's database is tidied where Airflow is: `airflow db clean`")
    command = [services.airflow_python(), "-m", "airflow", "db", "clean", "--clean-before-timestamp", before.isoformat(), "--skip-archive", "--yes"]
    environment = {**os.environ, **services.airflow_environment(settings())}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        said = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), f"it ended with {done.returncode}")
        raise TransientError(said, where="airflow db clean", mend="Look at Airflow's database; the next run tries again.")
    return ctx.say(f"Airflow's database remembers what came after {before:%Y-%m-%d}")


STAGE = stage.Stage("housekeep", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
