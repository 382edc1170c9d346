"""Python reads this at its start where this folder is on PYTHONPATH: a training process then writes down what it does, for test_kills.py.

WATCHED names the file: a line for each step and save, begun and done. A checkpoint's rename takes a while, so that kills meet it.
NO_MORE_TOKENS: a pass of more runs out of memory.
"""

import os
import time
from pathlib import Path

from tasks.training import backends, checkpoints, loop


def note(what: str, number: int) -> None:
    if os.environ.get("RANK", "0") == "0" and "WATCHED" in os.environ:
        file = os.open(os.environ["WATCHED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        os.write(file, f"{what} {number}\n".encode())
        os.close(file)


step, save, replace, score = loop.Loop.step, checkpoints.Checkpoints.save, os.replace, backends.Single.score


def watched_step(self: loop.Loop) -> None:
    number = len(self.losses)
    note("begin", number)
    step(self)
    note("step", number + 1)


def watched_save(self: checkpoints.Checkpoints, state: checkpoints.State) -> None:
    note("saving", state["step"])
    save(self, state)
    note("saved", state["step"])


def slow_replace(old: object, new: object, **options: int) -> None:
    if "step-" in Path(str(new)).name:
        time.sleep(0.05)
    replace(old, new, **options)  # type: ignore[arg-type, call-overload]


def small_score(self: backends.Single, examples: list) -> object:
    if sum(len(ids) for ids, _ in examples) > int(os.environ.get("NO_MORE_TOKENS", "1000000")):
        import torch

        raise torch.OutOfMemoryError("out of memory, for a test")
    return score(self, examples)


loop.Loop.step, checkpoints.Checkpoints.save, os.replace, backends.Single.score = watched_step, watched_save, slow_replace, small_score
