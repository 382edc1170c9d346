"""The real loop on a tiny model: it learns, it stops and goes on exactly, and a token never sees padding."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from flywheel import config, manifest, stage
from flywheel.errors import ContractError, DataError
from flywheel.model import load, score_answers
from flywheel.settings import REPOSITORY
from tasks import clean, ingest, tokenize, train
from tasks.training import base, gguf_file, outputs


def test_the_loss_ignores_padding_and_prompts(tiny_model):
    import torch

    from flywheel.model import answer_loss

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
        packed = answer_loss(loaded.model, [long, short], 0, loaded.device, packed=True)
        other = answer_loss(loaded.model, [(list(range(20, 50)), 5), short], 0, loaded.device, packed=True)
    torch.testing.assert_close(together, torch.stack(alone), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(together, torch.stack(reference), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(packed, torch.stack(alone), rtol=1e-4, atol=1e-4)  # end to end, a token never sees its neighbour
    torch.testing.assert_close(other[1], packed[1], rtol=1e-4, atol=1e-4)


@pytest.fixture
def prepared(home, tiny_model):
    """A home whose run has been tokenized, ready to train on the tiny model."""
    home.mkdir()
    records = [{"instruction": f"What is {i}?", "output": f"It is number {i}."} for i in range(80)]
    records += [{"prompt": f"Which is {i}?", "chosen": f"Number {i}.", "rejected": f"I do not know {i}."} for i in range(30)]
    records += [{"prompt": f"Name {i}?", "completion": f"Its name is {i}.", "label": bool(i % 3)} for i in range(30)]
    (home / "r.jsonl").write_text("\n".join(map(json.dumps, records)))
    (home / "c.yaml").write_text(f"""
model: {{base: '{tiny_model}'}}
ingest: {{sources: [{{kind: files, path: '{home}/r.jsonl', licence: x, consent: y}}]}}
clean: {{steps: [unicode, length, exact_duplicates, decontamination]}}
train: {{start: base, epochs: 20, learning_rate: 0.01, rank: 8, threads: 1}}
""")
    for module in (ingest, clean, tokenize):
        stage.execute(module.STAGE, config.load(f"{home}/c.yaml"), f"{home}/store/runs/t/a")
    return home


def start(name, home, run, *arguments):
    command = [sys.executable, "-m", f"tasks.{name}", "--config", f"{home}/c.yaml", "--run-dir", f"{home}/store/runs/t/{run}", *arguments]
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


@pytest.fixture
def train_here(prepared):
    """Train in this process, with changes; the manifest comes back."""

    def run(*changes):
        return stage.execute(train.STAGE, config.load(f"{prepared}/c.yaml", ["train.epochs=1", *changes]), f"{prepared}/store/runs/t/a")

    return run


@pytest.mark.parametrize("objective, first", [("dpo", 0.6931), ("kto", 0.5)])
def test_preferences_and_thumbs_are_learned_through_the_stage(train_here, home, objective, first):
    done = train_here(f"train.objective={objective}", "train.batch_size=64")
    points = [json.loads(line) for line in done.outputs["losses"].fetch(home / "cache").read_text().splitlines()]
    assert points[0]["loss"] == pytest.approx(first, abs=0.01) and done.metrics["new_examples"] >= 25


def test_what_lies_beside_the_adapter(train_here, home, tiny_model):
    done = train_here("train.also=[merged, gguf]")
    adapter, merged = (done.outputs[name].fetch(home / "cache") for name in ("adapter", "merged"))
    record = json.loads((adapter / "training.json").read_text())
    assert record["train"]["rank"] == 8 and record["inputs"]["base"] and record["versions"]["torch"]
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json", "generation_config.json"} <= {p.name for p in adapter.iterdir()}
    assert str(home) not in (adapter / "adapter_config.json").read_text() and done.metrics["merged_apart"] < outputs.EQUAL
    whole = load(merged, None, "float32")
    apart = load(tiny_model, adapter, "float32")
    examples = [([5, 6, 7, 8, 9], 2)]
    assert score_answers(whole, examples, 1)[0].loss == pytest.approx(score_answers(apart, examples, 1)[0].loss, abs=0.02)
    assert done.metrics["gguf_apart"] < gguf_file.EQUAL and done.outputs["gguf"].fetch(home / "cache").read_bytes()[:4] == b"GGUF"
    assert train_here("train.also=[merged, gguf]").cached_from


@pytest.mark.parametrize(
    "change, match",
    [
        ("train.device=cuda", "train.device: a GPU is asked for and none is there"),
        ("train.backend=zero2", "train.processes: zero2 shares the work"),
        ("model.max_length=100000", "model.max_length: 100000 tokens are more than the model's 512"),
        ("train.learning_rate=1e9", "learning_rate"),
        ("train.ranks=8", "unknown key `train.ranks`"),
        ("train.max_examples=1", "1 examples teach nothing that holds"),
    ],
)
def test_what_cannot_be_trained_ends_in_a_sentence(train_here, change, match, monkeypatch):
    monkeypatch.setattr(base, "build", lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(DataError if "max_examples" in change else ContractError, match=match):
        train_here(change)
