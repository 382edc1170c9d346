"""A version answers as it was trained, in either precision."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from flywheel.model import Decoding, generate, load, score_answers

EXAMPLES = [([5 + i, 6, 7, 8 + i, 9, 10, 1], 3) for i in range(8)]
LAYER = "model.layers.0.mlp.up_proj"


@pytest.fixture
def adapter(tiny_model, tmp_path):
    """One that moves weights by less than bf16 can write beside them."""
    torch.manual_seed(3)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(str(tiny_model), dtype=torch.float32), LoraConfig(r=8, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=1e-4)
    model.save_pretrained(str(tmp_path / "adapter"))
    return tmp_path / "adapter"


def moved(loaded, base):
    """By how much the adapter moves a layer's output: shape (width,), of all inputs that are one in one place."""
    layer, plain = loaded.model.get_submodule(LAYER), base.model.get_submodule(LAYER)
    seen = torch.eye(64)
    if hasattr(layer, "lora_A"):
        return layer.lora_B["default"](layer.lora_A["default"](seen)) * layer.scaling["default"]
    return layer(seen.to(layer.weight.dtype)).float() - plain(seen.to(layer.weight.dtype)).float()


def test_what_was_learned_is_not_rounded_away(tiny_model, adapter):
    exact = moved(load(tiny_model, adapter, "float32"), load(tiny_model, None, "float32"))
    kept = load(tiny_model, adapter, "bfloat16")
    assert exact.abs().max() > 0 and kept.model.get_submodule(LAYER).base_layer.weight.dtype == torch.bfloat16
    torch.testing.assert_close(moved(kept, kept), exact, rtol=1e-2, atol=1e-8)
    ours, reference = (score_answers(one, EXAMPLES, 4) for one in (kept, load(tiny_model, adapter, "float32")))
    assert [a.loss for a in ours] == pytest.approx([b.loss for b in reference], abs=0.1)
    assert len(generate(kept, [[5, 6, 7]], Decoding(4))) == 1
