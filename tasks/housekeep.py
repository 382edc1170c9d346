"""Retention: forget every record that was kept as long as it may be, as `flywheel forget --expired` does, and whom a backup brought back.

    python -m tasks.housekeep --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/housekeep

Output: `proof` (JSON: what was forgotten, by id and hash; it is in `feedback/forgotten` of the store, too). MLflow, when it is away, is
told later by the service.
"""

from __future__ import annotations

import json

from flywheel import forgetting, stage, store
from flywheel.manifest import Artifact


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """Each run looks anew: what has expired hangs on the clock."""
    return {"moment": Artifact(uri=ctx.run_dir, sha256=store.sha256_text(ctx.run_dir), bytes=0)}


def run(ctx: stage.Context) -> None:
    """Forget, and keep the proof."""
    brought_back = forgetting.again("housekeeping")
    proof = forgetting.forget("housekeeping", ctx.config.housekeep.reason, expired=True)
    ctx.path("proof.json").write_text(json.dumps(proof, indent=1) + "\n")
    ctx.output("proof", ctx.path("proof.json"), len(proof["records"]))
    ctx.say(f"{len(proof['records'])} records were kept long enough and are forgotten; MLflow has still to be told of {len(proof['pending'])}")
    if brought_back:
        ctx.say(f"{len(brought_back)} forgettings were done again, since a backup had brought them back: proofs {', '.join(brought_back)}")
    ctx.metrics |= {"forgotten": len(proof["records"]), "again": len(brought_back), "pending": len(proof["pending"]), "versions": len(proof["versions"])}


STAGE = stage.Stage("housekeep", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
