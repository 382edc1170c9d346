"""OpenAI's embeddings, by the encoder that retrieval and evaluation use too. Loaded when it is first asked for."""

from __future__ import annotations

import asyncio
import base64
from pathlib import Path
from typing import Any

from fastapi import APIRouter, Request

from flywheel import embedding
from flywheel.errors import ContractError, NotFound
from serving.schemas import EmbeddingsIn
from serving.settings import serving

router = APIRouter()


@router.post("/v1/embeddings")
async def embeddings(body: EmbeddingsIn, request: Request) -> dict[str, Any]:
    """A vector of length 1 for each text; what is longer than 256 tokens is cut there."""
    encoder = serving().embedding_model
    if body.model != Path(encoder).name:
        raise NotFound("there is no such model", where=f"model {body.model}", mend=f"Ask for {Path(encoder).name}.")
    vectors = await asyncio.to_thread(embedding.embed, body.input, encoder)
    tokens = await asyncio.to_thread(embedding.count_tokens, body.input, encoder)
    if body.dimensions not in (None, len(vectors[0])):
        raise ContractError(f"this model has {len(vectors[0])}", where="dimensions", mend="Leave it out.")
    data = [
        {"object": "embedding", "index": i, "embedding": vector.tolist() if body.encoding_format == "float" else base64.b64encode(vector.tobytes()).decode()}
        for i, vector in enumerate(vectors)
    ]
    await request.app.state.limits.spend(request.state.caller, tokens)
    return {"object": "list", "model": body.model, "data": data, "usage": {"prompt_tokens": tokens, "total_tokens": tokens}}
