"""A base model that cannot be trained is refused by its headers."""

import json
import shutil

import pytest

from flywheel.config import Train
from flywheel.errors import ContractError
from tasks.training import base
from tasks.training.rows import Row
from tests.tasks.training.conftest import rows


@pytest.fixture
def copy(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def refused(folder, match, max_length=64, data=()):
    with pytest.raises(ContractError, match=match):
        base.check(folder, "mine", max_length, data)


def test_a_whole_model_passes(tiny_model):
    base.check(tiny_model, "mine", 512, rows(8))


def test_what_is_wrong_is_named(copy):
    weights, config = copy / "model.safetensors", copy / "config.json"
    refused(copy, "513 tokens are more than the model's 512", 513)
    refused(copy, "an example has token 5000, the model has 260", data=[Row("a", [1, 5000], 1, False)])
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(copy, r"model.base mine: model.safetensors is cut off: \d+ bytes of \d+")
    weights.write_bytes(whole[:100])
    refused(copy, "model.safetensors is cut off or no safetensors file")
    weights.unlink()
    refused(copy, "it has no .safetensors file")
    weights.write_bytes(whole)
    text = json.loads(config.read_text())
    config.write_text(json.dumps(text | {"vocab_size": 100}))
    refused(copy, "its tokenizer has 260 tokens, the model 100")
    config.write_text(json.dumps(text | {"model_type": "vit"}))
    refused(copy, "its architecture is vit, which writes no text")
    config.write_text("{")
    refused(copy, "its config.json cannot be read")


def test_an_adapter_of_another_rank(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"r": 8}')
    base.check_parent(tmp_path, Train(rank=8), 3)
    with pytest.raises(ContractError, match=r"train.rank: it is 16, and the champion's adapter \(version 3\) has rank 8"):
        base.check_parent(tmp_path, Train(rank=16), 3)


def test_targets_that_are_not_there(tiny_model):
    with pytest.raises(ContractError, match=r"train.targets: this model has no layers \['nonsense'\]"):
        base.build(tiny_model, None, Train(targets=("nonsense",)), "float32", "cpu", 1)
    some = base.build(tiny_model, None, Train(targets=("q_proj",)), "float32", "cpu", 1)
    every = base.build(tiny_model, None, Train(), "float32", "cpu", 1)
    trained = [sum("lora_A" in n for n, _ in m.named_parameters()) for m in (some, every)]
    assert trained == [2, 14]  # two layers; all seven linear ones of each


def test_more_memory_holds_more_tokens(tiny_model):
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(str(tiny_model))
    few, many, more = (base.tokens_that_fit(config, size, twice) for size, twice in ((10**8, False), (10**9, False), (10**9, True)))
    assert 1 <= few < many < more and base.tokens_that_fit(config, 0, False) == 1
    assert base.free_bytes("cpu") > 10**6
