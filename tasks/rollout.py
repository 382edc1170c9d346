"""Try a promoted version on people, step by step; make it the champion, and wait until serving answers with it.

    python -m tasks.rollout --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Shadow, then a growing share of people, then everybody; each step is an event in the audit log. Guards compare both versions' answers all the
while; one that trips returns everybody to the champion within seconds and ends the stage with exit code 3. What servers know of the trial is
a lease that this stage renews: if it dies, they return by themselves.
Skipped, with its reason, unless the gate said promote, rollout is enabled, whoever must approve has, and the champion is still
the one it was compared with.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import httpx

from flywheel import guards, ledger, registry, stage
from flywheel.config import Rollout
from flywheel.errors import DataError, Preempted, TransientError
from flywheel.registry import Desired
from flywheel.settings import settings

LEASE_SECONDS = 30.0  # after which servers return by themselves
LOOK_SECONDS = 2.0


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
    if champion and now != number and champion.adapter.sha256 == version.adapter.sha256:
        return ctx.skip(f"its adapter is the champion's: version {number} is version {now}, judged once more")
    if now != number and now != version.reference:
        return ctx.skip(f"version {number} was compared with {version.reference or 'the base model'}, but the champion is {now} by now: turn once more")
    tried = bool(conf.wait_seconds) and now != number
    if tried:
        try_out(ctx, number, conf)
    registry.promote(number, actor(ctx), verdict["reason"], tried=tried, approved_by=conf.approved_by or None)
    if conf.approved_by:
        ctx.say(f"approved by {conf.approved_by}")
    ctx.say(f"version {number} is the champion ({verdict['reason']})")
    if conf.wait_seconds:
        ctx.metrics["seconds_to_serve"] = wait_for_serving(number, conf.wait_seconds, lambda reply: [reply.get("model_version")])
        ctx.say(f"serving answers with version {number} after {ctx.metrics['seconds_to_serve']:.0f} s")
    return None


def try_out(ctx: stage.Context, number: int, conf: Rollout) -> None:
    """Shadow and canary. Raises DataError when a guard trips, the answers are too few, or somebody ended it; TransientError when it cannot be loaded."""
    began, seen = time.time(), ""
    stages = [("shadow", 0.0, conf.shadow_seconds)] * bool(conf.shadow_seconds) + [("canary", share, conf.step_seconds) for share in conf.steps]
    registry.set_traffic(Desired(challenger=number))
    try:
        for kind, share, seconds in stages:
            traffic = Desired(challenger=number, stage=kind, share=share)
            registry.renew(traffic, LEASE_SECONDS)
            wait_for_serving(number, conf.wait_seconds, lambda reply: reply.get("versions", []), partial(registry.renew, traffic, LEASE_SECONDS))
            ledger.record_event(actor(ctx), kind, version=number, share=share)
            ctx.say(f"{kind}: version {number}{f' answers {share:.0%} of people' if share else ' answers unseen'}")
            seen = follow(ctx, traffic, conf, began, seconds)
            if seen:
                break
    finally:
        if seen or sys.exc_info()[0]:  # a trial that ends well is ended by the promotion, so that nobody changes versions twice
            registry.set_traffic(Desired())
    if seen:
        ledger.record_event(actor(ctx), "return", version=number, reason=seen)
        raise DataError(f"taken back: {seen}", where=f"version {number}", mend="Its evaluation report may show why; turn again when it is mended.")


def follow(ctx: stage.Context, traffic: Desired, conf: Rollout, began: float, seconds: float) -> str:
    """Watch one step to its end; why it must be taken back, or an empty string. Raises DataError when somebody ended the rollout."""
    started, number = time.time(), traffic.challenger or 0
    while True:
        if ctx.stop_requested:
            raise Preempted("stopped during the trial; servers have returned to the champion", where=f"version {number}")
        registry.renew(traffic, LEASE_SECONDS)
        figures = ledger.compare(number, began)
        reason = guards.breach(figures, conf.guards)
        answers = figures["errors"]["challenger"].n
        ctx.metrics["trial_answers"] = answers
        enough = answers >= conf.step_answers
        if reason or (enough and time.time() - started >= seconds):
            return reason
        if time.time() - began > conf.trial_seconds:
            return f"only {answers} answers in {conf.trial_seconds:.0f} s, {conf.step_answers} are wanted"
        ctx.progress(f"{traffic.stage}: {answers} answers of version {number}, no guard has tripped")
        time.sleep(min(LOOK_SECONDS, seconds))


def actor(ctx: stage.Context) -> str:
    """Who it is in the audit log."""
    return f"run {ctx.run_dir.rsplit('/', 1)[-1]}"


def wait_for_serving(number: int, seconds: float, names: Callable[[dict[str, Any]], list[Any]], meanwhile: Callable[[], None] = lambda: None) -> float:
    """The seconds until /readyz names this version. Raises TransientError when it does not in time."""
    began, seen = time.monotonic(), "nothing"
    while time.monotonic() - began < seconds:
        try:
            found = [str(name) for name in names(httpx.get(f"{settings().serving_url}/readyz", timeout=5).json())]
            seen = " and ".join(found) or "nothing"
        except (httpx.HTTPError, ValueError):
            found = []
        if str(number) in found:
            return round(time.monotonic() - began, 1)
        meanwhile()
        time.sleep(0.5)
    raise TransientError(
        f"serving has {seen} after {seconds:.0f} s, not version {number}", where=settings().serving_url, mend="Look at `make logs S=serving`, then retry."
    )


STAGE = stage.Stage("rollout", run, needs=("gate", "register"))
if __name__ == "__main__":
    stage.main(STAGE)
