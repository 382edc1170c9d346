"""What is seen of a training run: its progress line, its loss curve, its energy; and when it has gone wrong."""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flywheel.config import Train

WINDOW = 20
NOISE = 0.5  # nats by which a loss may always rise: multiples of a tiny loss mean nothing
Point = dict[str, float]  # step, loss (nats a token, or the objective's own), norm of the gradient, rate, tokens


def trouble(losses: Sequence[Point], loss: float, conf: Train) -> str:
    """Why training must stop at a step with this loss; empty when it may go on."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    if len(losses) < WINDOW:
        return ""
    means = [_mean(losses[i : i + WINDOW]) for i in range(0, len(losses) - WINDOW + 1, WINDOW // 2)]
    recent = _mean(losses[-WINDOW:])
    if loss > conf.spike * recent and loss > recent + NOISE:
        return f"the loss jumped to {loss:.2f} from a mean of {recent:.2f} (train.spike is {conf.spike:g})"
    if recent > conf.divergence * min(means) and recent > min(means) + NOISE:
        return f"the mean loss rose from {min(means):.2f} to {recent:.2f} (train.divergence is {conf.divergence:g})"
    return ""


def _mean(losses: Sequence[Point]) -> float:
    return sum(point["loss"] for point in losses) / len(losses)


class Meter:
    """Counts tokens, time, memory and energy of this attempt."""

    def __init__(self, device: str) -> None:
        self.device, self.tokens, self.steps = device, 0, 0
        self.began, self.cpu = time.monotonic(), time.process_time()
        self.joules, self.looked = 0.0, time.monotonic()

    def count(self, tokens: int) -> None:
        """One step more."""
        self.tokens += tokens
        self.steps += 1
        if self.device != "cpu":
            now = time.monotonic()
            if now - self.looked >= 1:
                self.joules, self.looked = self.joules + _watts() * (now - self.looked), now

    @property
    def elapsed(self) -> float:
        """Seconds since it began."""
        return time.monotonic() - self.began

    def line(self, losses: Sequence[Point], steps: int) -> str:
        """The progress line: step, loss, gradient norm, real tokens a second, memory, time left."""
        elapsed, done = self.elapsed, len(losses)
        left = elapsed / max(1, self.steps) * (steps - done)
        return (
            f"  step {done} of {steps} · loss {_mean(losses[-WINDOW:]):.3f} · gradient {losses[-1]['norm']:.2f} · "
            f"{self.tokens / elapsed:.0f} tokens/s · {memory(self.device) / 1e9:.1f} GB · {_clock(left)} left"
        )

    def metrics(self) -> dict[str, Any]:
        """For the manifest."""
        cpu = time.process_time() - self.cpu
        found = {
            "tokens_per_second": self.tokens / self.elapsed,
            "tokens_per_cpu_second": self.tokens / cpu,
            "peak_memory_gb": memory(self.device) / 1e9,
        }
        return found | ({"gpu_kilojoules": self.joules / 1000} if self.joules else {})


def memory(device: str) -> int:
    """Most bytes this process has held, on its GPU or else in RAM."""
    if device != "cpu":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _watts() -> float:
    """What the GPU draws now; 0 where its driver does not say."""
    import torch

    try:
        return torch.cuda.power_draw() / 1000
    except (RuntimeError, ImportError, AttributeError):  # no NVML, or a card that hides it
        return 0.0


def _clock(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 100 else f"{whole // 60} min" if whole < 6000 else f"{whole / 3600:.1f} h"


def draw(losses: Sequence[Point], path: Path) -> None:
    """The loss curve, smoothed over twenty steps."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(6, 3.2))
    values = [x["loss"] for x in losses]
    axis.plot(values, color="#b8c7dd", linewidth=0.8)
    axis.plot([_mean(losses[max(0, i - WINDOW + 1) : i + 1]) for i in range(len(values))], color="#2f5d9e")
    axis.set(xlabel="step", ylabel="loss (nats a token)", title="Training loss")
    axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
