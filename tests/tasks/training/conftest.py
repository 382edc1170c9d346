"""A job on the tiny model, run in this process."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from flywheel.config import Train
from flywheel.errors import Preempted
from flywheel.manifest import Cost
from tasks.training import loop
from tasks.training.rows import Row

FAST = {"learning_rate": 0.01, "rank": 8, "threads": 1, "min_new_examples": 0, "precision": "float32"}


def rows(count: int, seed: int = 0) -> list[Row]:
    """Examples whose answers repeat their question: there is something to learn."""
    dice = random.Random(seed)
    found = []
    for i in range(count):
        prompt = [4 + dice.randrange(60) for _ in range(dice.randrange(3, 12))]
        found.append(Row(f"{i:04d}", [*prompt, 3, *prompt[:6], 1], len(prompt) + 1, False))
    return found


class Controls:
    """Of a run that nobody stops, or that is stopped after so many steps."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stop_requested = self.finish_on_sigterm = False
        self.said: list[str] = []
        self.left = stop_after

    def say(self, text: str) -> None:
        self.said.append(text)

    def progress(self, text: str, *, last: bool = False) -> None:
        self.said.append(text)
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                raise Preempted("stopped by SIGTERM")


@pytest.fixture
def fit(tiny_model, tmp_path):
    """Train on rows; the losses come back."""

    def run(data: list[Row], controls: Controls | None = None, folder: Path = tmp_path / "one", seed: int = 1, **changes) -> list[float]:
        conf = Train(**(FAST | changes))
        job = loop.Job(conf, seed, "tiny", tiny_model, None, data, str(folder / "checkpoints"), "cpu", conf.precision)
        return [point["loss"] for point in loop.fit(job, controls or Controls(), Cost, folder / "adapter").losses]

    return run
