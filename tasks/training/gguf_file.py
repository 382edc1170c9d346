"""A Llama-shaped model folder as one GGUF file in bf16, for llama.cpp and its kin; checked by reading it back.

Only what is sure: the architecture `llama`, and a byte-level BPE tokenizer that splits as GPT-2's does. Anything else is refused
before training.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from flywheel.errors import ContractError, DataError

CONTROL, NORMAL = 3, 1  # token types of the format
EQUAL = 0.05  # nats by which log-probabilities of a probe may differ: both sides compute in fp32 on weights rounded to bf16


def check(folder: Path) -> None:
    """Raise ContractError when this model cannot be written."""
    config, tokenizer = (json.loads((folder / name).read_bytes()) for name in ("config.json", "tokenizer.json"))
    pre = tokenizer.get("pre_tokenizer") or {}
    scaled = (config.get("rope_parameters") or {}).get("rope_type", "default") != "default"
    if config["model_type"] != "llama" or config.get("attention_bias") or config.get("mlp_bias") or scaled:
        raise ContractError(f"GGUF is written for plain Llama models, and this is {config['model_type']}", where="train.also", mend="Take gguf out of it.")
    if tokenizer["model"]["type"] != "BPE" or pre.get("type") != "ByteLevel" or pre.get("add_prefix_space") or not pre.get("use_regex", True):
        raise ContractError("GGUF is written for tokenizers that split as GPT-2's does, and this one does not", where="train.also", mend="Take gguf out of it.")


def write(folder: Path, path: Path, probe: list[int]) -> float:
    """Write it; by how many nats the log-probabilities of a probe differ when it is read back. Raises DataError when too many."""
    import gguf
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype="float32").eval()
    config = model.config
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_rope_dimension_count(config.hidden_size // heads)
    _tokens(writer, folder)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.numpy()
        if name.endswith(("q_proj.weight", "k_proj.weight")):  # the format interleaves the two halves that rotary positions turn together
            count = heads if "q_proj" in name else kv_heads
            values = values.reshape(count, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        kind = gguf.GGMLQuantizationType.F32 if values.ndim == 1 else gguf.GGMLQuantizationType.BF16
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)) or name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return _read_back(path, model, probe)


def _tokens(writer: Any, folder: Path) -> None:
    """The tokenizer: its tokens in order, merges, special ids and chat template."""
    from flywheel.prompt import load_tokenizer

    raw, tokenizer = json.loads((folder / "tokenizer.json").read_bytes()), load_tokenizer(folder)
    special = {token["id"] for token in raw["added_tokens"] if token["special"]}
    tokens = [token for token, _ in sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if i in special else NORMAL for i in range(len(tokens))])
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in raw["model"]["merges"]])
    for add, value in (
        (writer.add_bos_token_id, tokenizer.bos_token_id), (writer.add_eos_token_id, tokenizer.eos_token_id), (writer.add_pad_token_id, tokenizer.pad_token_id),
    ):  # fmt: skip
        if value is not None:
            add(value)
    writer.add_add_bos_token(False)  # the chat template writes what belongs there
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)


def _read_back(path: Path, model: Any, probe: list[int]) -> float:
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # a folder of its own: the reader takes what else lies there for its own
        shutil.copyfile(path, Path(folder) / path.name)
        options: dict[str, Any] = {"gguf_file": path.name, "dtype": torch.float32, "quantization_config": GgufConfig(dequantize=True)}
        again: Any = AutoModelForCausalLM.from_pretrained(folder, **options).eval()
    ids = torch.tensor([probe])
    with torch.inference_mode():
        apart = (torch.log_softmax(model(ids).logits, -1) - torch.log_softmax(again(ids).logits, -1)).abs().max().item()
    if not apart <= EQUAL:
        raise DataError(f"the GGUF file differs from the merged model by {apart:.2g} nats", where="train.also", mend="Use the merged model.")
    return float(apart)
