"""Which combination of `search.grid` was best, of the trials that have ended.

    python -m tasks.best --config config/search.yaml --run-dir .flywheel/store/runs/hand/1

Outputs: `trials` (JSON: every result, the best first) and `changes` (JSON: the best's settings, as `--set` and a turn's form take them).
"""

from __future__ import annotations

import json

from flywheel import manifest, stage, store
from flywheel.errors import ContractError, DataError
from flywheel.manifest import Artifact


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """The result of each trial that has one. Raises ContractError when none has."""
    found: dict[str, Artifact] = {}
    for number in range(len(ctx.config.search.combinations(ctx.config.seed))):
        place = store.join(ctx.run_dir, "trials", str(number))
        if store.exists(manifest.manifest_uri(place, "trial")):
            found |= {f"trial.{number}": artifact for artifact in manifest.read_for(place, "trial").outputs.values()}
    if not found:
        raise ContractError("no trial has ended", where=ctx.run_dir, mend="Run them first: their logs say what stopped them.")
    return found


def run(ctx: stage.Context) -> None:
    """Rank, and say how the best is used."""
    results = [json.loads(ctx.fetch(name).read_bytes()) for name in ctx.inputs]
    ranked = sorted(results, key=lambda result: (result["loss"] is None, result["loss"]))
    for result in ranked:
        settings = ", ".join(f"{name} {value}" for name, value in result["settings"].items())
        ctx.say(f"  {result['why'] or format(result['loss'], '.4f')}  {settings}")
    best = ranked[0]
    if best["loss"] is None:
        raise DataError(f"no trial could be judged; the first: {best['why']}", where="search.grid", mend="Try smaller learning rates.")
    changes = [f"train.{name}={json.dumps(value)}" for name, value in best["settings"].items()]
    ctx.say(f"best of {len(ranked)}: " + " ".join(f"--set {change}" for change in changes))
    for name, content in (("trials", ranked), ("changes", changes)):
        ctx.path(f"{name}.json").write_text(json.dumps(content, indent=1))
        ctx.output(name, ctx.path(f"{name}.json"), len(content))
    ctx.metrics |= {"trials": len(ranked), "loss": best["loss"], "worst": max(r["loss"] for r in ranked if r["loss"] is not None)}


STAGE = stage.Stage("best", run, extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
