"""Load a base model with an adapter, and answer prompts in batches: evaluation and serving do it with the same code.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.prompt import load_tokenizer

if TYPE_CHECKING:
    import torch


@dataclass
class Loaded:
    """A model ready to answer, and the tokenizer that belongs to it."""

    model: Any
    tokenizer: Any
    device: torch.device


@dataclass(frozen=True)
class Decoding:
    """How answers are drawn; temperature 0 is greedy."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0


def load(base: Path, adapter: Path | None) -> Loaded:
    """Base and adapter merged in fp32, then bf16 for inference (on a CPU without bf16 units, too, it decodes 1.7 times as fast)."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    if adapter:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload(safe_merge=True)
    return Loaded(model.to(device, torch.bfloat16).eval(), load_tokenizer(base), device)


def generate(loaded: Loaded, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[int]]:
    """Token ids of one answer a prompt, without the stop token."""
    import torch

    tokenizer = loaded.tokenizer
    batch = tokenizer.pad({"input_ids": [list(p) for p in prompts]}, return_tensors="pt").to(loaded.device)
    sampling = (
        {"do_sample": True, "temperature": decoding.temperature, "top_p": decoding.top_p}
        if decoding.temperature > 0
        else {"do_sample": False, "temperature": None, "top_p": None}
    )
    with torch.inference_mode():
        out = loaded.model.generate(
            **batch, max_new_tokens=decoding.max_new_tokens, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, top_k=None, **sampling
        )
    width = batch["input_ids"].shape[1]
    ends = (tokenizer.eos_token_id, tokenizer.pad_token_id)
    return [_until(row[width:].tolist(), ends) for row in out]


def _until(ids: list[int], ends: tuple[int, ...]) -> list[int]:
    stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return ids[:stop]


def log_losses(loaded: Loaded, examples: Sequence[tuple[Sequence[int], int]], batch_size: int) -> list[tuple[float, int]]:
    """Sum of negative log-probabilities of each answer (nats) and its number of tokens.

    An example is its ids and the length of its prompt. Logits are made only where an answer token is predicted.
    """
    import torch

    results: list[tuple[float, int]] = [(0.0, 0)] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i][0]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        with torch.inference_mode():
            sums = answer_loss(loaded.model, [examples[i] for i in chosen], loaded.tokenizer.pad_token_id, loaded.device)
        for i, value in zip(chosen, sums.tolist(), strict=True):
            results[i] = (value, len(examples[i][0]) - examples[i][1])
    return results


def answer_loss(model: Any, examples: Sequence[tuple[Sequence[int], int]], pad: int, device: Any) -> torch.Tensor:
    """Summed cross-entropy of each example's answer, shape (examples,), in nats; right-padded, prompts not counted."""
    import torch

    width = max(len(ids) for ids, _ in examples)
    ids = torch.full((len(examples), width), pad)
    supervised = torch.zeros((len(examples), width), dtype=torch.bool)
    for row, (tokens, prompt) in enumerate(examples):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        supervised[row, prompt : len(tokens)] = True
    ids, supervised = ids.to(device), supervised.to(device)
    # Padding stands on the right, where causal attention from an earlier token never looks: no mask is needed.
    hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
    # A token is predicted from the position before it; the output layer sees only those positions.
    logits = model.get_output_embeddings()(hidden[:, :-1][supervised[:, 1:]])
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][supervised[:, 1:]], reduction="none")
    rows = supervised[:, 1:].nonzero()[:, 0]
    return torch.zeros(len(examples), device=losses.device).index_add(0, rows, losses)
