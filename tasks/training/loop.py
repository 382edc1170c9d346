"""The training itself: every step of the plan, seen, saved and stopped in time. One process runs it, or each of several does."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from flywheel.config import Train
from flywheel.errors import ContractError, DataError, Preempted
from tasks import worth
from tasks.training import backends, base, batching, outputs, watch
from tasks.training.checkpoints import Checkpoints
from tasks.training.machine import SHARDED
from tasks.training.objectives import OBJECTIVES, Example, Supervised
from tasks.training.rows import Row

if TYPE_CHECKING:
    from flywheel.manifest import Cost

REMEMBERED = 16  # sequences that are scored together before training


class OutOfMemory(ContractError):
    """One of several processes has no memory for its pass, while the others wait in the middle of theirs; `half` would have half the tokens."""

    half = 0


class Controls(Protocol):
    """What the loop needs of whoever runs it: `flywheel.stage.Context` has it.

    SIGTERM sets `stop_requested`, and raises Preempted at once unless `finish_on_sigterm` is set.
    """

    stop_requested: bool
    finish_on_sigterm: bool

    def say(self, text: str) -> None:
        """A line for the operator."""

    def progress(self, text: str, *, last: bool = False) -> None:
        """Likewise, but only now and then."""


@dataclass
class Job:
    """Everything that a process needs to train."""

    conf: Train
    seed: int
    name: str
    base: Path
    parent: Path | None
    rows: list[Row]
    checkpoints: str
    device: str
    precision: str


@dataclass
class Outcome:
    """The points of the loss curve, figures, and the summed loss of some answers at the end, by example: what a server must agree with."""

    losses: list[watch.Point]
    metrics: dict[str, Any]
    probe: dict[str, float]


def fit(job: Job, controls: Controls, spent: Callable[[], Cost], adapter: Path) -> Outcome:
    """Run every step and save the adapter.

    Raises Preempted after a checkpoint on SIGTERM, DataError when training goes wrong or a budget is spent.
    """
    import torch

    conf = job.conf
    if conf.threads:
        torch.set_num_threads(conf.threads)
    model: Any = base.build(job.base, job.parent, conf, job.precision, job.device, job.seed)
    longest = max(row.longest for row in job.rows) * (2 if conf.objective == "dpo" else 1)
    fits = conf.micro_tokens or base.tokens_that_fit(model.config, base.free_bytes(job.device), False)
    again = conf.gradient_checkpointing == "on" or (conf.gradient_checkpointing == "auto" and fits < longest and conf.backend not in SHARDED)
    if again:
        controls.say("each layer is computed twice, to fit in memory")
        fits = conf.micro_tokens or base.tokens_that_fit(model.config, base.free_bytes(job.device), True)
    if conf.compile:
        model.get_base_model().get_decoder().compile(dynamic=True)
    module = backends.scorer(model, model.config.pad_token_id or 0, job.device, job.precision, conf.batching == "packed", again)
    backend = backends.make(module, conf)
    checkpoints = Checkpoints(job.checkpoints, conf.checkpoint_seconds, conf.keep_checkpoints)
    checkpoints.check_space(sum(p.numel() for p in model.parameters() if p.requires_grad))
    steps = batching.plan(job.rows, conf, job.seed)
    objective = OBJECTIVES[conf.objective](job.rows, conf)
    run = Loop(job, controls, spent, backend, objective, checkpoints, steps, fits)
    run.remember()
    run.resume()
    model.train()
    run.all_steps()
    weights = {name.removeprefix("module.").removeprefix("model."): parts["weight"] for name, parts in backend.state().items()}
    if backend.rank == 0:
        outputs.save_adapter(model, weights, job.name, adapter)
    return Outcome(run.losses, run.meter.metrics() | {"checkpoint_share": checkpoints.spent / run.meter.elapsed}, run.probe())


class Loop:
    """The state of a run between two steps: `losses` has a point for each step that was made."""

    def __init__(
        self, job: Job, controls: Controls, spent: Callable[[], Cost], backend: backends.Single, objective: Supervised, checkpoints: Checkpoints,
        steps: list[list[Row]], fits: int,
    ) -> None:  # fmt: skip
        self.job, self.conf, self.controls, self.spent = job, job.conf, controls, spent
        self.backend, self.objective, self.checkpoints, self.steps = backend, objective, checkpoints, steps
        self.fits, self.halved = fits, False
        self.losses: list[watch.Point] = []
        self.meter = watch.Meter(job.device)

    def remember(self) -> None:
        """Let the objective score the examples as the model is now."""
        import torch

        rows = sorted(self.job.rows, key=lambda row: row.longest)
        self.backend.module.eval()
        for start in range(0, len(rows), REMEMBERED):
            with torch.no_grad():
                self.objective.remember(rows[start : start + REMEMBERED], self._score)

    def _score(self, examples: list[Example]) -> Any:
        """In pieces that fit, without gradients."""
        import torch

        longest = max(len(ids) for ids, _ in examples)
        size = max(1, min(REMEMBERED, self.fits // longest))
        try:
            return torch.cat([self.backend.score(examples[i : i + size]) for i in range(0, len(examples), size)])
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            self._halve(size * longest, size == 1, error)
        return self._score(examples)

    def resume(self) -> None:
        """From the newest checkpoint, if there is one."""
        state = self.checkpoints.load(self.controls.say)
        if state:
            self.losses = state["losses"]
            self.backend.load(state["parameters"], len(self.losses))
            self.controls.say(f"going on from the checkpoint at step {len(self.losses)} of {len(self.steps)}")

    def probe(self) -> dict[str, float]:
        """The summed loss of the first examples' answers now, in nats."""
        import torch

        self.backend.module.eval()
        rows = self.job.rows[:REMEMBERED]
        with torch.no_grad():
            scores = self._score([(row.ids, row.prompt) for row in rows])
        return {row.id: round(score, 5) for row, score in zip(rows, scores.tolist(), strict=True)}

    def save(self) -> None:
        """A checkpoint; the first process writes it."""
        parameters = self.backend.state()
        if self.backend.rank == 0:
            self.checkpoints.save({"step": len(self.losses), "losses": self.losses, "parameters": parameters})

    def all_steps(self) -> None:
        """Those that are left. With one process SIGTERM cuts a step short; with several, they agree after each."""
        alone = self.backend.world == 1
        saved = len(self.losses)
        self.controls.finish_on_sigterm = not alone
        try:
            while len(self.losses) < len(self.steps):
                self.step()
                self.controls.finish_on_sigterm = not alone
                stop, due = self.backend.total(self.controls.stop_requested, self.backend.rank == 0 and self.checkpoints.due())
                if stop:
                    raise Preempted("stopped by SIGTERM", where="train")
                self.controls.progress(self.meter.line(self.losses, len(self.steps)))
                if due:
                    self.save()
                    saved = len(self.losses)
                    self._look_at_budget()
            self.controls.finish_on_sigterm = True
            if saved < len(self.losses):
                self.save()  # what comes now may be stopped, too
        except Preempted:
            self.controls.finish_on_sigterm = True
            self.save()
            what = f"stopped by SIGTERM; step {len(self.losses)} of {len(self.steps)} is saved"
            raise Preempted(what, where="train", mend="A retry goes on from there.") from None
        self.controls.finish_on_sigterm = False

    def _look_at_budget(self) -> None:
        if reason := worth.budget_spent(self.spent(), self.conf):
            what = f"stopped at step {len(self.losses)} of {len(self.steps)}: {reason}"
            raise DataError(what, where="train", mend="Raise the budget: a retry goes on from here.")

    def step(self) -> None:
        """One step, in passes that fit in memory; the first time they do not, passes of half the size are tried."""
        number = len(self.losses)
        batch = self.steps[number]
        loss: float | None = None
        while loss is None:
            try:
                loss = self._gradients(batch, number)
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                passes = self._passes(batch)
                self._halve(max(map(self._tokens, passes)), len(passes) == len(batch), error)
            if loss is None:  # outside the handler, which holds on to what the pass allocated
                self.backend.clear()
        self._stop_for(watch.trouble(self.losses, loss, self.conf))  # before it is in the weights
        rate = batching.rate(number, len(self.steps), self.conf)
        self.controls.finish_on_sigterm = True  # from here the weights change: SIGTERM waits for the step's end
        norm = self.backend.step(rate)
        if not math.isfinite(norm):
            self._stop_for(f"the gradient's norm is {norm}")
        tokens = self._tokens(batch)
        self.losses.append({"step": number, "loss": round(loss, 4), "norm": round(norm, 4), "rate": rate, "tokens": tokens})
        self.meter.count(tokens)

    def _tokens(self, rows: list[Row]) -> int:
        return sum(len(ids) for row in rows for ids, _ in self.objective.sequences(row))

    def _passes(self, batch: list[Row]) -> list[list[Row]]:
        most = self.fits
        if self.backend.world > 1:  # at least one each
            most = min(most, math.ceil(self._tokens(batch) / self.backend.world))
        return batching.passes(batch, most, self.conf.batching == "packed")

    def _halve(self, tokens: int, smallest: bool, error: BaseException) -> None:
        """Half of `tokens` a pass from now on, if that was not done before and they are not the smallest that can be: of one example."""
        number = len(self.losses)
        mend = "Lower train.micro_tokens or model.max_length, or set train.gradient_checkpointing to on."
        refused = OutOfMemory(f"out of memory at step {number} with passes of {self.fits} tokens", where="train", mend=mend)
        if self.halved or smallest:
            raise refused from error
        half = max(1, min(self.fits, tokens) // 2)
        if self.backend.world > 1:
            refused.half = half
            raise refused from error
        self.halved, self.fits = True, half
        self.controls.say(f"out of memory at step {number}: going on with passes of {self.fits} tokens")

    def _gradients(self, batch: list[Row], number: int) -> float:
        """Every pass of this process; the step's loss, of all processes."""
        import torch

        backend = self.backend
        torch.manual_seed(random.Random(f"{self.job.seed}:{number}:{backend.rank}").getrandbits(63))  # dropout, the same after a resume
        with torch.no_grad():
            self.objective.begin(batch, self._score)
        weight, seen = self.objective.weight(batch), 0.0
        own = batching.share(self._passes(batch), backend.rank, backend.world)
        for i, (rows, counts) in enumerate(own):
            scores = backend.score([sequence for row in rows for sequence in self.objective.sequences(row)])
            loss = self.objective.loss(rows, scores) / weight * counts
            seen += loss.item()
            backend.backward(loss, last=i == len(own) - 1)
        return backend.total(seen)[0]

    def _stop_for(self, reason: str) -> None:
        if not reason:
            return
        kept = self.checkpoints.names()
        last = f"the checkpoint of step {int(kept[0].split('-')[1])} is kept" if kept else "no checkpoint was made before"
        raise DataError(f"{reason} at step {len(self.losses)}; {last}", where="train", mend="Lower train.learning_rate, or look at the examples.")


def out_of_memory(error: BaseException) -> bool:
    """Whether it says that there is no memory, on a GPU or on the CPU."""
    import torch

    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
