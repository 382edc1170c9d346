"""End the rollout that goes on, or make an earlier version the champion again; servers follow within seconds.

    python -m tasks.rollback --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/2 --set rollback.to=3

What the DAG `rollback` runs; `flywheel rollback` does the same from a terminal.
"""

from __future__ import annotations

from flywheel import registry, stage


def run(ctx: stage.Context) -> None:
    """Return, and say to what."""
    conf = ctx.config.rollback
    number = registry.rollback(conf.actor or f"run {ctx.run_dir.rsplit('/', 1)[-1]}", conf.reason, conf.to or None)
    ctx.metrics["version"] = number
    ctx.say(f"version {number} is what is served; serving follows within seconds")


STAGE = stage.Stage("rollback", run, extra=stage.request)
if __name__ == "__main__":
    stage.main(STAGE)
