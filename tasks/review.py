"""People's review in Label Studio: pull what they decided, push what waits for them.

    python -m tasks.review --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/review

Skipped where no Label Studio is set up. Output: `agreement` (JSON), how far annotators agree.
"""

from __future__ import annotations

import json

from flywheel import stage, store
from flywheel.labelling import agreement, sync
from flywheel.manifest import Artifact
from flywheel.settings import settings


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """Each run looks anew: its input is the moment's ledger and Label Studio's, which no other run shares."""
    return {"ledger": Artifact(uri=ctx.run_dir, sha256=store.sha256_text(ctx.run_dir), bytes=0)}


def run(ctx: stage.Context) -> None:
    """Pull first: what was decided needs no task."""
    if not settings().label_studio_url:
        return ctx.skip("no Label Studio is set up: `make review` does it on a laptop, FLYWHEEL_LABEL_STUDIO_URL elsewhere")
    conf = ctx.config.review
    taken = sync.pull()
    pushed = sync.push(conf.project, conf.open, conf.annotators)
    for sentence in [*taken.said, *pushed.said]:
        ctx.say(sentence)
    told = agreement.report()
    path = ctx.path("agreement.json")
    path.write_text(json.dumps(told, indent=1))
    ctx.output("agreement", path)
    ctx.say(f"project {pushed.project}: {taken.decided} decided, {taken.skipped} skipped, {taken.waiting} need another annotator; {pushed.new} pushed")
    ctx.metrics |= {"annotations": taken.new, "decided": taken.decided, "skipped": taken.skipped, "waiting": taken.waiting, "pushed": pushed.new}
    ctx.metrics |= {"removed": pushed.removed, "alpha_verdict": told["alpha_verdict"]}
    return None


STAGE = stage.Stage("review", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
