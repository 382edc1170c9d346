"""Do once what an operator asked for in Airflow: promote, retire, pause, resume or forget; the audit log says who and why.

    python -m tasks.operate --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/3 --set operate.verb=retire --set operate.version=2

What the DAG `operate` runs; from a terminal `flywheel promote`, `retire`, `pause`, `resume`, `forget`. Output of a forgetting: `proof`.
"""

from __future__ import annotations

import json

from flywheel import forgetting, operations, stage
from flywheel.errors import ContractError


def run(ctx: stage.Context) -> None:
    """Do it, and say what was done."""
    conf = ctx.config.operate
    actor = conf.actor or f"run {ctx.run_dir.rsplit('/', 1)[-1]}"
    operations.need(conf.reason)
    if conf.verb in ("promote", "retire"):
        if not conf.version:
            raise ContractError("no version is named", where="operate.version", mend="Name one: `flywheel versions` lists them.")
        (operations.promote if conf.verb == "promote" else operations.retire)(conf.version, actor, conf.reason)
        said = f"version {conf.version} is the champion now" if conf.verb == "promote" else f"version {conf.version} is never served again"
    elif conf.verb in ("pause", "resume"):
        changed = operations.pause(actor, conf.reason, paused=conf.verb == "pause")
        said = f"{conf.verb}d {', '.join(changed)}" if changed else f"nothing to {conf.verb}"
    elif conf.verb == "forget":
        if bool(conf.user) == bool(conf.record):
            raise ContractError("name a person or a record", where="operate.user, operate.record", mend="Fill in one of them.")
        proof = forgetting.forget(actor, conf.reason, user=conf.user, record=conf.record)
        ctx.path("proof.json").write_text(json.dumps(proof, indent=1) + "\n")
        ctx.output("proof", ctx.path("proof.json"), len(proof["records"]))
        said = f"{len(proof['records'])} records are forgotten; proof {proof['id']}"
    else:
        raise ContractError("nothing is asked for", where="operate.verb", mend="Choose promote, retire, pause, resume or forget.")
    ctx.metrics |= {"verb": conf.verb, "version": conf.version or None}
    ctx.say(f"{said} ({actor}: {conf.reason})")


STAGE = stage.Stage("operate", run, extra=stage.request)
if __name__ == "__main__":
    stage.main(STAGE)
