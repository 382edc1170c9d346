"""Several processes, on this machine or on several nodes, through torchrun: each runs the same loop on its share.

The stage starts them and waits; SIGTERM reaches them through it, and they die when it does. What they say and how they fail comes
back as files of the attempt.

On several nodes each runs the stage: FLYWHEEL_NODES of them, the JOB_COMPLETION_INDEX-th of which this one is, that meet at
FLYWHEEL_FIRST_NODE (host:port). Only the first has something to show; the others end with 0 and write no manifest.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from flywheel import config, errors, logs, spend, stage
from flywheel.errors import ContractError, FlywheelError, Preempted, TransientError
from flywheel.settings import REPOSITORY
from tasks.training import backends, loop, rows

PR_SET_PDEATHSIG = 1


def _die_with_parent(with_signal: signal.Signals) -> Callable[[], None]:
    return lambda: ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, with_signal)


def meeting(nodes: int) -> list[str]:
    """torchrun's arguments for how the processes find each other."""
    if nodes == 1:
        return ["--standalone"]
    host, _, port = os.environ.get("FLYWHEEL_FIRST_NODE", "").rpartition(":")
    if not host:
        raise ContractError(f"{nodes} nodes train together, and nobody says where", where="FLYWHEEL_FIRST_NODE", mend="Set it to the first node's host:port.")
    return ["--nnodes", str(nodes), "--node-rank", str(node()), "--master-addr", host, "--master-port", port]


def node() -> int:
    """Which of the nodes this is, from 0."""
    return int(os.environ.get("JOB_COMPLETION_INDEX", "0"))


def together(job: loop.Job, ctx: stage.Context, source: Path, adapter: Path, nodes: int) -> loop.Outcome:
    """Train in `train.processes` processes on each node: like `loop.fit`, and raises what it raises in them. Ends the program on all nodes but the first.

    When one runs out of memory on one machine, all begin again, once, from the last checkpoint, with passes of half the size.
    """
    try:
        return _together(job, ctx, source, adapter, nodes)
    except loop.OutOfMemory as error:
        if not error.half or nodes > 1:  # the other nodes do not know
            raise
        ctx.say(f"{error.what}: the processes begin again with passes of {error.half} tokens")
        return _together(replace(job, conf=job.conf.model_copy(update={"micro_tokens": error.half})), ctx, source, adapter, nodes)


def _together(job: loop.Job, ctx: stage.Context, source: Path, adapter: Path, nodes: int) -> loop.Outcome:
    folder = adapter.parent
    order = {row.id: i for i, row in enumerate(rows.read(source, job.conf.objective))}
    conf = ctx.config.model_copy(update={"train": job.conf})
    what = {
        "config": conf.model_dump(mode="json", by_alias=True), "run_dir": ctx.run_dir, "name": job.name, "base": str(job.base),
        "parent": str(job.parent) if job.parent else None, "source": str(source), "chosen": [order[row.id] for row in job.rows],
        "checkpoints": job.checkpoints, "device": job.device, "precision": job.precision, "adapter": str(adapter),
    }  # fmt: skip
    (folder / "job.json").write_text(json.dumps(what))
    command = [sys.executable, "-m", "torch.distributed.run", *meeting(nodes), "--nproc-per-node", str(job.conf.processes), "-m", __name__]
    environment = {**os.environ, "TORCH_CPP_LOG_LEVEL": "ERROR"}
    if job.device == "cpu":
        environment["DS_ACCELERATOR"] = "cpu"
    ctx.finish_on_sigterm = True  # SIGTERM is passed on below
    children = subprocess.Popen([*command, str(folder / "job.json")], cwd=REPOSITORY, env=environment, preexec_fn=_die_with_parent(signal.SIGTERM))
    told = False
    while children.poll() is None:
        if ctx.stop_requested and not told:
            children.terminate()
            told = True
        time.sleep(0.05)
    ctx.finish_on_sigterm = False
    paths = sorted(folder.glob("failure-*.json"))
    failures = [json.loads(path.read_text()) for path in paths]
    for path in (folder / "job.json", *paths):
        path.unlink()
    for failure in sorted(failures, key=lambda f: f["kind"] == "Preempted"):
        error: FlywheelError = getattr(errors, failure["kind"], loop.OutOfMemory)(failure["what"], where=failure["where"], mend=failure["mend"])
        if isinstance(error, loop.OutOfMemory):
            error.half = failure["half"]
        raise error
    if ctx.stop_requested:
        raise Preempted("stopped by SIGTERM", where="train", mend="A retry goes on from the last checkpoint.")
    if children.returncode:
        raise TransientError(f"a process of the training died ({children.returncode})", where="train", mend="A retry goes on from the last checkpoint.")
    if node():
        ctx.say(f"node {node()} has done its share")
        raise SystemExit(0)
    result = json.loads((folder / "result.json").read_text())
    (folder / "result.json").unlink()
    return loop.Outcome(**result)


def main(path: str) -> None:
    """One of the processes."""
    rank = int(os.environ["RANK"])
    _die_with_parent(signal.SIGKILL)()
    what = json.loads(Path(path).read_text())
    folder = Path(path).parent
    conf = config.Config.model_validate(what["config"])
    if rank == 0:  # the others have nothing to say
        logs.setup("%(message)s", sys.stdout)
    stage.quiet_libraries()
    ctx = stage.Context(stage.Stage("train", lambda _: None), conf, what["run_dir"])
    before = spend.this_week()
    try:
        with stage.on_sigterm(ctx):
            backends.meet(what["device"])
            every = rows.read(Path(what["source"]), conf.train.objective)
            job = loop.Job(
                conf.train, conf.seed, what["name"], Path(what["base"]), Path(what["parent"]) if what["parent"] else None,
                [every[i] for i in what["chosen"]], what["checkpoints"], what["device"], what["precision"],
            )  # fmt: skip
            outcome = loop.fit(job, ctx, lambda: before.plus(stage.cost(ctx)), Path(what["adapter"]))
    except FlywheelError as error:
        failure = {"kind": type(error).__name__, "what": error.what, "where": error.where, "mend": error.mend, "half": getattr(error, "half", 0)}
        (folder / f"failure-{rank}.json").write_text(json.dumps(failure))
        sys.stdout.flush()
        os._exit(error.exit_code)  # the others may wait for this one for ever: torchrun ends them
    if rank == 0:
        (folder / "result.json").write_text(json.dumps(vars(outcome)))


if __name__ == "__main__":
    main(sys.argv[1])
