"""The base model with its adapter, and whether both can be trained: looked at in their headers, before the weights are read."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel import prompt
from flywheel.config import Train
from flywheel.errors import ContractError
from tasks.training.rows import Row

if TYPE_CHECKING:
    from torch import nn

KEPT_FREE = 0.8  # of the memory that is free, this share is planned for


def check(folder: Path, name: str, max_length: int, rows: Sequence[Row]) -> None:
    """Raise ContractError when the base model is cut off, of no known kind, or not the one the examples were tokenized for."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    where = f"model.base {name}"
    mend = "Fetch it anew, or name another."
    try:
        config = json.loads((folder / "config.json").read_bytes())
        kind, vocabulary, positions = config["model_type"], int(config["vocab_size"]), int(config.get("max_position_embeddings") or max_length)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ContractError(f"its config.json cannot be read ({type(error).__name__})", where=where, mend=mend) from error
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise ContractError(f"its architecture is {kind}, which writes no text", where=where, mend="Name a causal language model.")
    _whole(folder, where, mend)
    tokenizer = prompt.load_tokenizer(folder)
    if len(tokenizer) > vocabulary:
        raise ContractError(
            f"its tokenizer has {len(tokenizer)} tokens, the model {vocabulary}", where=where, mend="Put the tokenizer that belongs to it there."
        )
    highest = max((max(map(int, sequence)) for row in rows for sequence in (row.tokens, row.rejected) if len(sequence)), default=0)
    if highest >= vocabulary:
        raise ContractError(f"an example has token {highest}, the model has {vocabulary}", where=where, mend="Run tokenize again for this base model.")
    if max_length > positions:
        raise ContractError(f"{max_length} tokens are more than the model's {positions}", where="model.max_length", mend=f"Lower it to {positions}.")


def _whole(folder: Path, where: str, mend: str) -> None:
    """Each weights file says in its header how long it is."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ContractError("it has no .safetensors file", where=where, mend="Save it as safetensors: other formats run code when they are read.")
    for path in files:
        try:
            with open(path, "rb") as file:
                size = struct.unpack("<Q", file.read(8))[0]
                header = json.loads(file.read(size))
            end = 8 + size + max(entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__")
        except (struct.error, ValueError, KeyError, OverflowError, MemoryError) as error:
            raise ContractError(f"{path.name} is cut off or no safetensors file", where=where, mend=mend) from error
        if path.stat().st_size < end:
            raise ContractError(f"{path.name} is cut off: {path.stat().st_size} bytes of {end}", where=where, mend=mend)


def check_parent(folder: Path, conf: Train, version: int) -> None:
    """Raise ContractError when the champion's adapter is not of the shape that the config asks for."""
    try:
        found = json.loads((folder / "adapter_config.json").read_bytes())["r"]
    except (OSError, ValueError, KeyError) as error:
        raise ContractError("its adapter_config.json cannot be read", where=f"version {version}", mend="Set train.start to base to begin afresh.") from error
    if found != conf.rank:
        mend = f"Set it to {found} to go on from it, or train.start to base to begin afresh."
        raise ContractError(f"it is {conf.rank}, and the champion's adapter (version {version}) has rank {found}", where="train.rank", mend=mend)


def build(folder: Path, parent: Path | None, conf: Train, precision: str, device: str, seed: int) -> nn.Module:
    """The model with a trainable fp32 adapter, on the device."""
    import torch
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    torch.manual_seed(seed)
    dtype = getattr(torch, precision)
    quantized = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype)
    options: dict[str, Any] = {"quantization_config": quantized, "device_map": {"": device}} if conf.method == "qlora" else {}
    if device != "cpu":
        options["attn_implementation"] = "flash_attention_2" if _has("flash_attn") and dtype == torch.bfloat16 else "sdpa"
    model: Any = AutoModelForCausalLM.from_pretrained(str(folder), dtype=dtype, **options)
    if device != "cpu" and _has("liger_kernel"):
        from liger_kernel.transformers import _apply_liger_kernel_to_instance  # norms, SwiGLU and rotary positions; the loss is ours

        _apply_liger_kernel_to_instance(model=model)
    model.to(device)
    if parent:
        return PeftModel.from_pretrained(model, str(parent), is_trainable=True)
    targets = conf.targets if isinstance(conf.targets, str) else list(conf.targets)
    lora = LoraConfig(r=conf.rank, lora_alpha=conf.alpha, lora_dropout=conf.dropout, target_modules=targets, task_type="CAUSAL_LM")
    try:
        return get_peft_model(model, lora)
    except ValueError as error:  # no such layer
        raise ContractError(f"this model has no layers {targets}", where="train.targets", mend="Set it to all-linear, or name its layers.") from error


def _has(library: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(library) is not None


def tokens_that_fit(config: Any, free_bytes: int, checkpointing: bool) -> int:
    """About how many tokens one pass may hold, forward and backward, in so much memory.

    A token keeps some 34 numbers a layer and hidden unit in two bytes (two of them when each layer is computed twice), and its
    logits three times in four bytes. Deliberately a little too much: what runs out of memory all the same is halved once.
    """
    text = config.get_text_config()
    layers = text.num_hidden_layers * text.hidden_size * 2 * (2 if checkpointing else 34)
    return max(1, int(KEPT_FREE * free_bytes / (layers + text.vocab_size * 12)))


def free_bytes(device: str) -> int:
    """Memory that is free on the device: a GPU's own, or what the machine and its control group leave to this process."""
    import torch

    if device != "cpu":
        return int(torch.cuda.mem_get_info()[0])
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            free = int(line.split()[1]) * 1024
    limit, used = (Path("/sys/fs/cgroup") / name for name in ("memory.max", "memory.current"))
    if limit.exists() and limit.read_text().strip() != "max":
        free = min(free, int(limit.read_text()) - int(used.read_text()))
    return free
