"""LLaMA-Factory's trainer on batches that are given, in an environment of its own; for benchmarks/train.py. The last line is JSON.

Of that environment it needs `llamafactory` alone, and nothing of ours.  /folder/bin/python benchmarks/llama_factory.py settings.json
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from llamafactory.train.tuner import run_exp
from transformers import TrainerCallback


class Timed(TrainerCallback):  # type: ignore[misc]  # its environment has its own transformers
    """CPU-seconds inside the trainer's steps, and each step's loss."""

    def __init__(self) -> None:
        self.seconds, self.began, self.losses = 0.0, 0.0, list[float]()

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        """Start."""
        self.began = time.process_time()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        """Stop."""
        self.seconds += time.process_time() - self.began

    def on_log(self, _args: Any, _state: Any, _control: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
        """One step."""
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))


timed = Timed()
run_exp(json.loads(Path(sys.argv[1]).read_text()), callbacks=[timed])
print(json.dumps({"seconds": timed.seconds, "losses": timed.losses}))
