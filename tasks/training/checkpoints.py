"""Checkpoints: adapter, optimizer and position in one file, the newest few kept; whole or not at all.

The name holds the step and the content's hash, so one that was cut off, wherever it lay, is passed over for the one before. The
learning rate, the order of the examples and the random numbers are functions of the step and the seed: the step restores all three.
"""

from __future__ import annotations

import hashlib
import io
import shutil
import time
from collections.abc import Callable
from typing import Any

from flywheel import store
from flywheel.errors import TransientError

State = dict[str, Any]  # step, losses, parameters: {name: {"weight", "exp_avg", "exp_avg_sq": tensors}}
WORTH = 20  # a save may take a twentieth of the time since the last


class Checkpoints:
    """Those of one run with one config."""

    def __init__(self, uri: str, seconds: float, keep: int) -> None:
        self.uri, self.seconds, self.keep = uri, seconds, keep
        self.saved, self.took, self.spent = time.monotonic(), 0.0, 0.0

    def due(self) -> bool:
        """Whether it is time to save."""
        return time.monotonic() - self.saved >= max(self.seconds, WORTH * self.took)

    def names(self) -> list[str]:
        """Newest first."""
        return sorted((name for name in store.list_names(self.uri) if name.startswith("step-")), reverse=True)

    def check_space(self, parameters: int) -> None:
        """Raise TransientError when the store's disk cannot hold what is going to be saved: three fp32 numbers a trained parameter."""
        if not store.is_local(self.uri):
            return
        folder = next(p for p in (store.local_path(self.uri), *store.local_path(self.uri).parents) if p.is_dir())
        needed, free = 12 * parameters * (self.keep + 1), shutil.disk_usage(folder).free
        if free < needed:
            what = f"{self.keep + 1} checkpoints need {needed / 1e6:.0f} MB and {free / 1e6:.0f} MB are free"
            raise TransientError(what, where=str(folder), mend="Free some space, or lower train.keep_checkpoints; a retry goes on.")

    def save(self, state: State) -> None:
        """Write the state in which `step` is the next step, then remove the oldest."""
        import torch

        began = time.monotonic()
        buffer = io.BytesIO()
        torch.save(state, buffer)
        data = buffer.getvalue()
        store.write_bytes(store.join(self.uri, f"step-{state['step']:08d}-{hashlib.sha256(data).hexdigest()[:16]}.pt"), data)
        for name in self.names()[self.keep :]:
            store.remove(store.join(self.uri, name))
        self.saved, self.took = time.monotonic(), time.monotonic() - began
        self.spent += self.took

    def load(self, say: Callable[[str], None]) -> State | None:
        """The newest whole one; None when there is none."""
        import torch

        for name in self.names():
            data = store.read_bytes(store.join(self.uri, name))
            if name.endswith(f"-{hashlib.sha256(data).hexdigest()[:16]}.pt"):
                state: State = torch.load(io.BytesIO(data), weights_only=True)
                return state
            say(f"the checkpoint {name} is cut off: passed over")
            store.remove(store.join(self.uri, name))
        return None
