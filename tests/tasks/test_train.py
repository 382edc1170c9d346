"""The real loop on a tiny model: it learns, it stops and goes on exactly, and a token never sees padding."""

import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from flywheel import manifest
from flywheel.config import Train
from flywheel.settings import REPOSITORY
from tasks.training import batching
from tasks.training import rows as examples
from tasks.training.rows import Row


def rows(count, seed=0):
    dice = random.Random(seed)
    return [Row(f"{i:04d}", [4 + dice.randrange(60) for _ in range(dice.randrange(6, 20))], 3, False) for i in range(count)]


def test_choose_takes_corrections_first_and_replays():
    every = [Row(f"{i}", [1, 2, 3], 1, i % 10 == 0) for i in range(100)]
    conf = Train(max_examples=40, replay=0.25)
    assert all(r.feedback for r in examples.choose(every, set(), conf, 1)[:10])
    learned = {str(i) for i in range(50)}
    chosen = examples.choose(every, learned, conf, 1)
    assert (len(chosen), sum(r.id in learned for r in chosen)) == (40, 10)
    assert len(examples.choose(every, {r.id for r in every}, conf, 1)) == 40


def test_plan_covers_every_row_once_an_epoch():
    batches = batching.plan(rows(101), Train(batch_size=8, epochs=2), 1)
    assert sorted(r.id for batch in batches for r in batch) == sorted([r.id for r in rows(101)] * 2)
    assert batches == batching.plan(rows(101), Train(batch_size=8, epochs=2), 1)


def test_the_loss_ignores_padding_and_prompts(tiny_model):
    import torch

    from flywheel.model import answer_loss, load

    loaded = load(tiny_model, None)
    loaded.model.float()
    long, short = (list(range(4, 34)), 5), (list(range(40, 50)), 4)
    with torch.inference_mode():
        together = answer_loss(loaded.model, [long, short], 0, loaded.device)
        alone = [answer_loss(loaded.model, [one], 0, loaded.device)[0] for one in (long, short)]
        reference = []
        for ids, question in (long, short):
            labels = torch.tensor([[-100] * question + ids[question:]])
            reference.append(loaded.model(torch.tensor([ids]), labels=labels).loss * (len(ids) - question))
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together, torch.stack(reference), rtol=1e-4, atol=1e-4)


@pytest.fixture
def prepared(home, tiny_model):
    """A home whose run has been tokenized, ready to train on the tiny model."""
    home.mkdir()
    records = [{"instruction": f"What is {i}?", "output": f"It is number {i}."} for i in range(80)]
    (home / "r.jsonl").write_text("\n".join(map(json.dumps, records)))
    (home / "c.yaml").write_text(f"""
model: {{base: '{tiny_model}'}}
ingest: {{sources: [{{kind: files, path: '{home}/r.jsonl', licence: x, consent: y}}]}}
clean: {{steps: [unicode, length, exact_duplicates, decontamination]}}
train: {{start: base, epochs: 20, learning_rate: 0.01, rank: 8, threads: 1}}
""")
    for stage in ("ingest", "clean", "tokenize"):
        assert start(stage, home, "a").wait() == 0
    return home


def start(stage, home, run, *arguments):
    command = [sys.executable, "-m", f"tasks.{stage}", "--config", f"{home}/c.yaml", "--run-dir", f"{home}/store/runs/t/{run}", *arguments]
    return subprocess.Popen(
        command, cwd=REPOSITORY, env={**os.environ, "FLYWHEEL_HOME": str(home)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def losses(home, run):
    found = manifest.read(f"{home}/store/runs/t/{run}/train/manifest.json").outputs["losses"].fetch(home / "cache")
    return [json.loads(line)["loss"] for line in found.read_text().splitlines()]


def test_sigterm_saves_and_a_retry_ends_where_an_uninterrupted_run_does(prepared):
    whole = start("train", prepared, "a")
    assert whole.wait() == 0, whole.stdout.read()
    expected = losses(prepared, "a")
    assert sum(expected[-10:]) < 0.9 * sum(expected[:10])
    for path in (prepared / "store" / "cache" / "train").iterdir():
        path.unlink()  # or the second run would be a cache hit
    manifest_path = prepared / "store/runs/t/a/train/manifest.json"
    manifest_path.unlink()
    folder = prepared / "store/runs/t/a/train/checkpoints"
    finished = set(folder.rglob("step-*.pt"))
    stopped = start("train", prepared, "a", "--set", "train.checkpoint_seconds=0.05")
    until = time.monotonic() + 300
    while set(folder.rglob("step-*.pt")) <= finished and time.monotonic() < until:
        time.sleep(0.02)
    stopped.send_signal(signal.SIGTERM)
    output = stopped.communicate()[0]
    assert stopped.returncode == 143, output
    assert not manifest_path.exists()
    resumed = start("train", prepared, "a", "--set", "train.checkpoint_seconds=0.05")
    output = resumed.communicate()[0]
    assert resumed.returncode == 0 and "going on from the checkpoint" in output, output
    assert losses(prepared, "a") == expected


def test_qlora_trains_on_a_cpu(prepared):
    done = start("train", prepared, "a", "--set", "train.method=qlora", "--set", "train.epochs=1")
    output = done.communicate()[0]
    assert done.returncode == 0, output
    assert losses(prepared, "a")[0] > 0
