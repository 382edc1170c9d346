"""A Hugging Face causal language model as OpenVINO's intermediate representation, made once and kept beside the base model.

The model is traced with its key-value cache as inputs, which then become state: the form that OpenVINO GenAI turns into paged
attention. Names of layers stay, so that LoRA adapters of PEFT find them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from flywheel.errors import ContractError


def openvino_folder(base: Path, cache: Path) -> Path:
    """The folder with `openvino_model.xml` of a base model folder. Raises ContractError for a model that cannot be traced."""
    from flywheel import store
    from flywheel.base_model import identity, only_one

    folder = cache / "openvino" / f"{base.name}-{store.sha256_text(identity(str(base)).sha256, 'fp16')[:12]}"
    with only_one(folder):
        if not folder.is_dir():
            partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
            try:
                _convert(base, partial)
                os.replace(partial, folder)
            except Exception as error:  # tracing fails in as many ways as there are models
                raise ContractError(
                    f"it cannot be converted for the embedded engine ({type(error).__name__}: {str(error)[:200]})",
                    where=str(base), mend="Use a decoder-only model with full attention, or FLYWHEEL_SERVING_ENGINE=upstream.",
                ) from error  # fmt: skip
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    return folder


def _convert(base: Path, target: Path) -> None:
    import openvino as ov
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache
    from transformers.cache_utils import DynamicLayer

    model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32, attn_implementation="sdpa").eval()
    shape = model.config
    layers, heads = shape.num_hidden_layers, shape.num_key_value_heads
    size = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads

    class Step(torch.nn.Module):
        """One step with the cache as plain tensors, keys and values in turn."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, position_ids: Any, past: list[Any]) -> tuple[Any, ...]:
            cache = DynamicCache()
            for keys, values in zip(past[::2], past[1::2], strict=True):
                layer: Any = DynamicLayer()
                layer.keys, layer.values, layer.is_initialized = keys, values, True
                layer.dtype, layer.device = keys.dtype, keys.device
                cache.layers.append(layer)
            seen = torch.arange(attention_mask.shape[1])[None, None, None, :] <= position_ids[:, None, :, None]
            mask = seen & (attention_mask[:, None, None, :] > 0)
            logits = self.model(input_ids=input_ids, attention_mask=mask, position_ids=position_ids, past_key_values=cache, use_cache=True).logits
            return (logits, *(tensor for layer in list[Any](cache.layers) for tensor in (layer.keys, layer.values)))

    past = [torch.zeros(2, heads, 3, size) for _ in range(2 * layers)]
    example = (torch.ones(2, 4, dtype=torch.long), torch.ones(2, 7, dtype=torch.long), torch.arange(3, 7).repeat(2, 1), past)
    with torch.no_grad():
        traced = ov.convert_model(Step(), example_input=example)
    _with_state(traced, layers, heads, size)
    ov.save_model(traced, str(target / "openvino_model.xml"), compress_to_fp16=True)
    for name in ("config.json", "generation_config.json"):
        if (base / name).exists():
            shutil.copy(base / name, target / name)


def _with_state(traced: Any, layers: int, heads: int, size: int) -> None:
    """Make the cache's inputs and outputs state, reordered by `beam_idx` and empty at first, as OpenVINO GenAI expects it."""
    import numpy as np
    import openvino as ov
    from openvino import opset13 as op
    from openvino._offline_transformations import apply_make_stateful_transformation

    cache = [f"past.{i}.{kind}" for i in range(layers) for kind in ("key", "value")]
    names = ["input_ids", "attention_mask", "position_ids", *cache]
    for port, name in zip(traced.inputs, names, strict=True):
        port.get_tensor().set_names({name})
    present = [name.replace("past", "present") for name in cache]
    for port, name in zip(traced.outputs, ["logits", *present], strict=True):
        port.get_tensor().set_names({name})
    traced.reshape({port: ov.PartialShape([-1, heads, -1, size] if name in cache else [-1, -1]) for port, name in zip(traced.inputs, names, strict=True)})
    beam = op.parameter([-1], ov.Type.i32, name="beam_idx")
    beam.output(0).get_tensor().add_names({"beam_idx"})
    traced.add_parameters([beam])
    for name in cache:
        port = traced.input(name)
        users = port.get_target_inputs()
        ordered = op.gather(port, beam, op.constant(0))
        for user in users:
            user.replace_source_output(ordered.output(0))
    traced.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(traced, dict(zip(cache, present, strict=True)))
    batch = op.gather(op.shape_of(traced.input("input_ids"), output_type="i64"), op.constant([0]), op.constant(0))
    empty = [op.constant(np.array([dim], dtype=np.int64)) for dim in (heads, 0, size)]
    for node in traced.get_ops():
        if node.get_type_name() == "ReadValue":
            node.set_arguments([op.broadcast(op.constant(0.0, dtype=np.float32), op.concat([batch, *empty], axis=0))])
    traced.validate_nodes_and_infer_types()
