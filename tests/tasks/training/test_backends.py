"""Two processes of this machine give the losses of one, and go on from its checkpoints."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from flywheel import config, manifest, stage
from flywheel.config import Train
from flywheel.settings import REPOSITORY
from tasks import clean, ingest, tokenize
from tasks.training.backends import DeepSpeed

TOGETHER = ("ddp", "zero2", "zero3", "fsdp2")
CONFIG = """
model: {{base: '{base}'}}
ingest: {{sources: [{{kind: files, path: '{home}/r.jsonl', licence: x, consent: y}}]}}
clean: {{steps: [unicode, length, exact_duplicates, decontamination]}}
train: {{start: base, epochs: 1, learning_rate: 0.01, rank: 8, threads: 1, precision: float32, micro_tokens: 80}}
"""


@pytest.fixture
def turn(home, tiny_model):
    """Starts a stage of a run; the process comes back."""
    home.mkdir()
    (home / "r.jsonl").write_text("\n".join(json.dumps({"instruction": f"What is {i}?", "output": f"It is {i}."}) for i in range(80)))
    (home / "c.yaml").write_text(CONFIG.format(base=tiny_model, home=home))

    def start(name, *changes, run="a", **variables):
        command = [sys.executable, "-m", f"tasks.{name}", "--config", f"{home}/c.yaml", "--run-dir", f"{home}/store/runs/t/{run}"]
        command += [part for change in changes for part in ("--set", change)]
        environment = {**os.environ, "FLYWHEEL_HOME": str(home), **variables}
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    for module in (ingest, clean, tokenize):
        stage.execute(module.STAGE, config.load(f"{home}/c.yaml"), f"{home}/store/runs/t/a")
    return start


def trained(turn, home, *changes, **variables):
    process = turn("train", *changes, **variables)
    output = process.communicate()[0]
    assert process.returncode == 0, output
    found = manifest.read(f"{home}/store/runs/t/a/train/manifest.json")
    return [json.loads(line)["loss"] for line in found.outputs["losses"].fetch(home / "cache").read_text().splitlines()], output


def start_over(home):
    """Let the run begin anew: no manifest, cached result or checkpoint."""
    run = home / "store/runs/t/a/train"
    for path in [run / "manifest.json", *(home / "store/cache/train").iterdir(), *run.glob("checkpoints/*/step-*")]:
        path.unlink()


def needs(backend):
    if backend.startswith("zero"):
        pytest.importorskip("deepspeed", reason="DeepSpeed is not installed (make gpu)")


@pytest.mark.parametrize("backend", [pytest.param(b, marks=[] if b == "ddp" else pytest.mark.slow) for b in TOGETHER])
def test_two_processes_give_the_losses_of_one(turn, home, backend):
    needs(backend)
    alone, _ = trained(turn, home)
    together, _ = trained(turn, home, f"train.backend={backend}", "train.processes=2")
    assert together == pytest.approx(alone, abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("backend", TOGETHER)
def test_two_processes_are_stopped_and_go_on(turn, home, backend):
    needs(backend)
    options = (f"train.backend={backend}", "train.processes=2", "train.epochs=20", "train.checkpoint_seconds=0.5")
    whole, _ = trained(turn, home, *options)
    start_over(home)
    stopped = turn("train", *options)
    folder = home / "store/runs/t/a/train/checkpoints"
    while stopped.poll() is None and not list(folder.rglob("step-*.pt")):
        time.sleep(0.05)
    stopped.send_signal(signal.SIGTERM)
    output = stopped.communicate()[0]
    assert stopped.returncode == 143, output
    again, said = trained(turn, home, *options)
    assert "going on from the checkpoint at step" in said
    assert again == pytest.approx(whole, abs=1e-3)


def test_two_nodes_give_the_losses_of_one_and_only_the_first_writes(turn, home):
    alone, _ = trained(turn, home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    at = {"FLYWHEEL_NODES": "2", "FLYWHEEL_FIRST_NODE": f"127.0.0.1:{port}"}
    second = turn("train", "train.backend=ddp", **at, JOB_COMPLETION_INDEX="1")
    together, _ = trained(turn, home, "train.backend=ddp", **at, JOB_COMPLETION_INDEX="0")
    said = second.communicate()[0]
    assert second.returncode == 0 and "node 1 has done its share" in said and "manifest" not in said, said
    assert together == pytest.approx(alone, abs=1e-3)


def test_nodes_that_are_not_told_where_to_meet_say_so(turn):
    process = turn("train", "train.backend=ddp", FLYWHEEL_NODES="2")
    assert "FLYWHEEL_FIRST_NODE" in process.communicate()[0] and process.returncode == 2


def test_deepspeed_s_config_follows_ours():
    found = DeepSpeed.settings(Train(backend="zero3-offload", processes=2, max_grad_norm=0.5))
    assert found["zero_optimization"]["stage"] == 3 and found["zero_optimization"]["offload_param"]["device"] == "cpu" and found["gradient_clipping"] == 0.5
    assert "offload_optimizer" not in DeepSpeed.settings(Train(backend="zero2", processes=2))["zero_optimization"]


@pytest.mark.gpu
def test_a_gpu_trains_in_bf16(turn, home):
    import torch

    if not torch.cuda.is_available():
        pytest.skip("no GPU on this machine")
    losses, output = trained(turn, home, "train.device=cuda", "train.precision=auto")
    assert losses[-1] < losses[0] and "GB" in output
