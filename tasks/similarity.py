"""Semantic similarity: the cosine of two texts' sentence embeddings."""

from __future__ import annotations

from collections.abc import Sequence

from flywheel import embedding


def of(pairs: Sequence[tuple[str, str]], embedder: str) -> list[float]:
    """Cosine of each pair of texts, in [-1, 1]; texts are cut at 256 tokens."""
    if not pairs:
        return []
    texts = sorted({text for pair in pairs for text in pair})
    vectors = dict(zip(texts, embedding.embed(texts, embedder), strict=True))
    return [float(vectors[a] @ vectors[b]) for a, b in pairs]
