"""The service on its embedded engine with the base model, without a registry. For benchmarks/serve.py."""

from __future__ import annotations

import serving.app
from serving.reconcile import BASE, Reconciler


class Standing(Reconciler):
    """Loads the base model and looks no further."""

    def step(self) -> None:
        """Once is enough."""
        self.load(BASE)
        self.pool.lead(BASE)


serving.app.Reconciler = Standing  # type: ignore[misc]
app = serving.app.app
