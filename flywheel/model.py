"""Load a base model with an adapter, and answer prompts in batches: evaluation and serving do it with the same code.

Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

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


def load(base: Path, adapter: Path | None, precision: Literal["float32", "bfloat16"] = "bfloat16") -> Loaded:
    """Base and adapter, ready to answer as they were trained.

    In float32 they are merged, which loses nothing and costs nothing a token. In bfloat16 they stay apart, as servers keep them: rounding
    merged weights loses a part of what was learned. bfloat16 decodes faster; in float32 a padded batch gives what singles give.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=getattr(torch, precision))
    model.to(device)
    if adapter:
        adapted = PeftModel.from_pretrained(model, str(adapter))
        model = adapted.merge_and_unload(safe_merge=True) if precision == "float32" else adapted.get_base_model()
    return Loaded(model.eval(), load_tokenizer(base), device)


@dataclass(frozen=True)
class Drawn:
    """One answer's token ids, without the stop token, and whether the model came to its end by itself."""

    ids: list[int]
    finished: bool


def generate(loaded: Loaded, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[Drawn]:
    """One answer a prompt, decoded as one batch."""
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
    return [_until(row[width:].tolist(), ends, decoding.max_new_tokens) for row in out]


def _until(ids: list[int], ends: tuple[int, ...], most: int) -> Drawn:
    stop = next((i for i, token in enumerate(ids) if token in ends), len(ids))
    return Drawn(ids[:stop], stop < most)


@dataclass(frozen=True)
class Scored:
    """What a model makes of one reference answer, summed over its tokens.

    `bins` has, for each tenth of confidence, the tokens whose likeliest successor had it, the sum of it, and how often it was right.
    """

    loss: float
    tokens: int
    right: int
    bins: list[tuple[int, float, int]]


def score_answers(loaded: Loaded, examples: Sequence[tuple[Sequence[int], int]], batch_size: int) -> list[Scored]:
    """Negative log-probability (nats), right next tokens and calibration of each answer, in the order given.

    An example is its ids and the length of its prompt. Logits are made only where an answer token is predicted.
    """
    import torch

    results: list[Scored] = [Scored(0.0, 0, 0, [])] * len(examples)
    order = sorted(range(len(examples)), key=lambda i: len(examples[i][0]))
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        with torch.inference_mode():
            logits, targets, rows = answer_logits(loaded.model, [examples[i] for i in chosen], loaded.tokenizer.pad_token_id, loaded.device)
            log_probs = torch.log_softmax(logits.float(), dim=-1)
            losses = -log_probs.gather(1, targets[:, None])[:, 0].double()
            best, guess = log_probs.max(dim=-1)
            confidence, right = best.exp().double(), guess == targets
            where = rows * 10 + (confidence * 10).long().clamp(max=9)
            counts, sums, hits = (
                torch.zeros(len(chosen) * 10, dtype=torch.float64, device=logits.device).index_add(0, where, x.double())
                for x in (torch.ones_like(confidence), confidence, right)
            )
            total = torch.zeros(len(chosen), dtype=torch.float64, device=logits.device).index_add(0, rows, losses)
        bins = list(zip(counts.long().tolist(), sums.tolist(), hits.long().tolist(), strict=True))
        for k, i in enumerate(chosen):
            own = bins[k * 10 : k * 10 + 10]
            results[i] = Scored(total[k].item(), len(examples[i][0]) - examples[i][1], sum(hit for _, _, hit in own), own)
    return results


def answer_loss(model: Any, examples: Sequence[tuple[Sequence[int], int]], pad: int, device: Any, packed: bool = False) -> torch.Tensor:
    """Summed cross-entropy of each example's answer, shape (examples,), in nats; prompts and padding not counted."""
    import torch

    logits, targets, rows = answer_logits(model, examples, pad, device, packed)
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return torch.zeros(len(examples), device=losses.device).index_add(0, rows, losses)


def answer_logits(
    model: Any, examples: Sequence[tuple[Sequence[int], int]], pad: int, device: Any, packed: bool = False
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits, shape (answer tokens, vocabulary), the tokens they should predict, and each one's example, both (answer tokens,).

    Examples stand below each other, padded, or packed: end to end in one row, where positions that begin anew keep them apart.
    """
    ids, owner, positions = (x.to(device) for x in (_pack(examples) if packed else _pad(examples, pad)))
    # Padded: it stands on the right, where causal attention from an earlier token never looks, so no mask is needed. Packed: the
    # library makes the mask from the positions, and only when no mask and no cache is given.
    hidden = model.get_decoder()(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state
    # A token is predicted from the position before it; the output layer sees only those positions.
    supervised = owner[:, 1:] >= 0
    logits = model.get_output_embeddings()(hidden[:, :-1][supervised])
    return logits, ids[:, 1:][supervised], owner[:, 1:][supervised]


def _pad(examples: Sequence[tuple[Sequence[int], int]], pad: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Ids, the example that each answer token belongs to (-1: none), and positions, each (examples, longest)."""
    import torch

    shape = (len(examples), max(len(ids) for ids, _ in examples))
    ids, owner = torch.full(shape, pad), torch.full(shape, -1)
    for row, (tokens, prompt) in enumerate(examples):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        owner[row, prompt : len(tokens)] = row
    return ids, owner, torch.arange(shape[1])[None]


def _pack(examples: Sequence[tuple[Sequence[int], int]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The same, each (1, all tokens)."""
    import torch

    ids = torch.cat([torch.tensor(tokens) for tokens, _ in examples])
    owner = torch.cat([torch.tensor([-1] * max(1, prompt) + [row] * (len(tokens) - max(1, prompt))) for row, (tokens, prompt) in enumerate(examples)])
    return ids[None], owner[None], torch.cat([torch.arange(len(tokens)) for tokens, _ in examples])[None]
