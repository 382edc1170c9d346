"""End the rollout that goes on, or make an earlier version the champion again; servers follow within seconds.

    python -m tasks.rollback --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/2 --set rollback.to=3

What the DAG `rollback` runs; `flywheel rollback` does the same from a terminal.
"""

from __future__ import annotations

from flywheel import registry, stage, store
from flywheel.manifest import Artifact


def run(ctx: stage.Context) -> None:
    """Return, and say to what."""
    conf = ctx.config.rollback
    number = registry.rollback(conf.actor or f"run {ctx.run_dir.rsplit('/', 1)[-1]}", conf.reason, conf.to or None)
    ctx.metrics["version"] = number
    ctx.say(f"version {number} is what is served; serving follows within seconds")


def _request(ctx: stage.Context) -> dict[str, Artifact]:
    """Each run is a request of its own: what an earlier one did is not done again from the cache."""
    return {"request": Artifact(uri=ctx.run_dir, sha256=store.sha256_text(ctx.run_dir), bytes=0)}


STAGE = stage.Stage("rollback", run, extra=_request)
if __name__ == "__main__":
    stage.main(STAGE)
