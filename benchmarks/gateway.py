"""The service with an engine that answers at once and a pool that needs no registry: what is left is the gateway's own part. For benchmarks/serve.py."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Any

import serving.app
from serving.engines.base import Decoding, Piece
from serving.pool import Pool


class Null:
    """A version that says one word."""

    version = "base"
    can: frozenset[str] = frozenset()

    async def stream(self, turns: Any, decoding: Decoding) -> AsyncGenerator[Piece, None]:
        """One word."""
        yield Piece("yes", (), "stop", 8, 1)

    def close(self) -> None:
        """Nothing to close."""


class Still:
    """In the reconciler's place: loads the null version."""

    def __init__(self, pool: Pool, _engine: Any) -> None:
        self.pool = pool

    def step(self) -> None:
        """Once is enough."""
        if not self.pool.versions():
            self.pool.put(Null())
            self.pool.lead("base")


serving.app.create = lambda: None
serving.app.Reconciler = Still  # type: ignore[misc,assignment]
app = serving.app.app
