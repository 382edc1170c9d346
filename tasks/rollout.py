"""Make a promoted version the champion, and wait until serving answers with it.

    python -m tasks.rollout --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Skipped, with its reason, unless the gate said promote, rollout is enabled, whoever must approve has, and the champion is still
the one it was compared with.
"""

from __future__ import annotations

import json
import time

import httpx

from flywheel import registry, stage
from flywheel.errors import TransientError
from flywheel.settings import settings


def run(ctx: stage.Context) -> None:
    """Check, promote, wait."""
    conf = ctx.config.rollout
    number = int(ctx.upstream("register").metrics["version"] or 0)
    verdict = json.loads(ctx.fetch("gate.verdict").read_bytes())
    ctx.metrics["version"] = number
    if verdict["verdict"] != "promote":
        return ctx.skip(f"the gate says {verdict['verdict']}: {verdict['reason']}")
    if not conf.enabled:
        return ctx.skip(f"version {number} is registered; rollout.enabled is false (as in a backfill)")
    if verdict["approval"] == "needed" and not conf.approved_by:
        return ctx.skip(f"version {number} is held: a person must approve it (gate.approval), and nobody has")
    version, champion = registry.get(number), registry.champion()
    now = champion.version if champion else None
    if now != number and now != version.reference:
        return ctx.skip(f"version {number} was compared with {version.reference or 'the base model'}, but the champion is {now} by now: turn once more")
    registry.promote(number, f"run {ctx.run_dir.rsplit('/', 1)[-1]}", verdict["reason"], approved_by=conf.approved_by or None)
    if conf.approved_by:
        ctx.say(f"approved by {conf.approved_by}")
    ctx.say(f"version {number} is the champion ({verdict['reason']})")
    if conf.wait_seconds:
        wait_for_serving(ctx, number, conf.wait_seconds)
    return None


def wait_for_serving(ctx: stage.Context, number: int, seconds: float) -> None:
    """Raises TransientError when serving does not answer with this version in time."""
    began, seen = time.monotonic(), "nothing"
    while time.monotonic() - began < seconds:
        try:
            seen = str(httpx.get(f"{settings().serving_url}/readyz", timeout=5).json().get("model_version"))
        except (httpx.HTTPError, ValueError):
            seen = "nothing"
        if seen == str(number):
            ctx.metrics["seconds_to_serve"] = round(time.monotonic() - began, 1)
            ctx.say(f"serving answers with version {number} after {time.monotonic() - began:.0f} s")
            return
        time.sleep(0.5)
    raise TransientError(
        f"serving still answers with {seen} after {seconds:.0f} s", where=settings().serving_url, mend="Look at `make logs S=serving`, then retry."
    )


STAGE = stage.Stage("rollout", run, needs=("gate", "register"))
if __name__ == "__main__":
    stage.main(STAGE)
