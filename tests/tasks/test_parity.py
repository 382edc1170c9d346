"""The pair that was trained passes, and ten seeded faults are caught, each by a sentence that names it."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from flywheel import base_model, config, prompt, stage
from flywheel.model import load
from flywheel.records import Example
from tasks import clean, ingest, parity, tokenize, train
from tasks.training import rows

CONFIG = """
model: {{base: '{base}', max_length: 64}}
ingest: {{sources: [{{kind: files, path: '{home}/r.jsonl', licence: x, consent: y}}]}}
clean: {{steps: [unicode, length, exact_duplicates, decontamination]}}
tokenize: {{truncate: cut}}
train: {{start: base, epochs: 10, learning_rate: 0.01, rank: 8, threads: 1}}
"""


@pytest.fixture
def pair(home, tiny_model, tmp_path):
    """A trained run: its config, its folder, and copies of base and adapter to break."""
    home.mkdir()
    records = [{"instruction": f"What is {i}?", "output": f"It is number {i}." + " Indeed." * (9 if i % 10 == 0 else 0)} for i in range(80)]
    (home / "r.jsonl").write_text("\n".join(map(json.dumps, records)))
    (home / "c.yaml").write_text(CONFIG.format(base=tiny_model, home=home))
    conf, run = config.load(f"{home}/c.yaml"), f"{home}/store/runs/t/a"
    for module in (ingest, clean, tokenize, train):
        done = stage.execute(module.STAGE, conf, run)
    adapter = shutil.copytree(done.outputs["adapter"].location, tmp_path / "adapter")
    return conf, run, shutil.copytree(tiny_model, tmp_path / "base"), adapter


def found(pair):
    conf, run, base, adapter = pair
    outputs = {name: stage.manifest.read_for(run, name).outputs for name in ("clean", "tokenize", "train")}
    learned = rows.read(outputs["tokenize"]["train"].fetch(base))
    probe = json.loads(outputs["train"]["probe"].fetch(base).read_bytes())
    examples = {e.id: e for e in map(Example.model_validate_json, outputs["clean"]["train"].fetch(base).read_bytes().splitlines())}
    return " | ".join(parity.differences(conf, learned, examples, probe, base, adapter)[0])


def edit(path, **changes):
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def other_weights(path, seed=5):
    torch.manual_seed(seed)
    save_file({name: torch.randn_like(tensor.float()).to(tensor.dtype) * 0.1 for name, tensor in load_file(path).items()}, path, {"format": "pt"})


def merged_into_the_base(base, adapter):
    load(base, adapter, "float32").model.to(torch.bfloat16).save_pretrained(base)


def half(adapter):
    path = adapter / "adapter_model.safetensors"
    save_file({name: tensor.half() for name, tensor in load_file(path).items()}, path, {"format": "pt"})


FAULTS = {
    "template": (
        lambda b, a: (b / "chat_template.jinja").write_text((b / "chat_template.jinja").read_text().replace("<end>", "<end>\n")),
        "prompts are not what the server",
    ),
    "bos": (lambda b, a: edit(a / "tokenizer_config.json", bos_token="<user>"), "bos_token_id is None for the server and 2 beside"),
    "eos": (lambda b, a: edit(b / "tokenizer_config.json", eos_token="<pad>"), "with the token that ends them, are not what the server reads"),
    "pad": (lambda b, a: edit(a / "tokenizer_config.json", pad_token="<end>"), "pad_token_id is 0 for the server and 1 beside"),
    "wrong adapter": (lambda b, a: other_weights(a / "adapter_model.safetensors"), "other weights are served"),
    "wrong rank": (lambda b, a: edit(a / "adapter_config.json", r=4), "has the shape"),
    "wrong base": (lambda b, a: other_weights(b / "model.safetensors"), "other weights are served"),
    "dtype": (lambda b, a: half(a), "the adapter is in F16"),
    "truncated": (lambda b, a: (a / "adapter_model.safetensors").write_bytes((a / "adapter_model.safetensors").read_bytes()[:9000]), "cut off"),
    "merged twice": (merged_into_the_base, "other weights are served"),
}


def test_ten_seeded_faults_are_caught_and_the_real_pair_passes(pair, tmp_path):
    _, _, base, adapter = pair
    assert found(pair) == ""
    for name, (spoil, sentence) in FAULTS.items():
        kept = [shutil.copytree(folder, tmp_path / f"kept {folder.name}", dirs_exist_ok=True) for folder in (base, adapter)]
        spoil(base, adapter)
        assert sentence in found(pair), name
        for folder, whole in zip((base, adapter), kept, strict=True):
            shutil.rmtree(folder)
            shutil.copytree(whole, folder)
    assert found(pair) == ""


def test_the_stage_passes_and_says_what_differs(pair, monkeypatch):
    conf, run, base, _ = pair
    done = stage.execute(parity.STAGE, conf, run)
    assert done.metrics["answers"] == 16 and done.metrics["conversations"] > 60 and done.metrics["drift"] < conf.parity.tolerance
    assert json.loads(done.outputs["findings"].fetch(base).read_bytes()) == [] and done.metrics["differences"] == 0
    other_weights(base / "model.safetensors")
    monkeypatch.setattr(base_model, "local_folder", lambda *_: base)
    monkeypatch.setattr(stage, "_cached", lambda *_: None)
    other = stage.execute(parity.STAGE, conf, run)
    assert other.metrics["differences"] == 1 and "other weights are served" in other.outputs["findings"].fetch(base).read_text()


def test_500_conversations_have_the_same_tokens(home, tiny_model, tmp_path):
    home.mkdir()
    words = ["straße", "日本", "a\tb", "naïve", "<b>", "x = {1: 2}", "end", "🙂", "  two", "\n\nnew"]

    def turn(role, i, k):
        return {"role": role, "content": f"{words[(i + k) % 10]} {i} {words[i % 7]}" + " more" * (i % 9 if k else 0)}

    talks = [[turn(("user", "assistant")[k % 2], i, k) for k in range(2 + 2 * (i % 3))] for i in range(640)]
    (home / "r.jsonl").write_text("".join(json.dumps({"messages": talk}) + "\n" for talk in talks))
    (home / "c.yaml").write_text(CONFIG.format(base=tiny_model, home=home))
    conf, run = config.load(f"{home}/c.yaml", ["tokenize.truncate=left", "clean.steps=[length]"]), f"{home}/store/runs/t/a"
    for module in (ingest, clean, tokenize):
        done = stage.execute(module.STAGE, conf, run)
    learned = rows.read(done.outputs["train"].fetch(home / "cache"))[: conf.parity.conversations]
    records = stage.manifest.read_for(run, "clean").outputs["train"].fetch(home / "cache").read_bytes().splitlines()
    examples = {e.id: e for e in map(Example.model_validate_json, records)}
    assert len(learned) == 500 and sum(row.left_out > 0 for row in learned) > 20 and sum(bool(e.history) for e in examples.values()) > 300
    server = prompt.load_tokenizer(tiny_model)
    assert parity.same_tokens(learned, examples, server, server, "auto", 64) == []
    other = prompt.load_tokenizer(tiny_model)
    other.chat_template = other.chat_template.replace("{{ m.content }}", "{{ m.content | trim }}")
    found = parity.same_tokens(learned, examples, other, server, "auto", 64)
    assert len(found) == 1 and "of 500 prompts are not what the server writes" in found[0]
