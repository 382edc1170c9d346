"""In which order examples are learned, and how a step is cut into passes: a pure function of examples, settings and seed.

So a resumed run sees the same batches, and one process cuts a step as many do: their losses are equal.
"""

from __future__ import annotations

import math
import random

from flywheel.config import Train
from tasks.training.rows import Row

GROUP = 50  # batches sorted by length together: little padding, and still mixed


def plan(rows: list[Row], conf: Train, seed: int) -> list[list[Row]]:
    """Every step's examples, in order."""
    steps = max(1, math.ceil(len(rows) / conf.batch_size * conf.epochs))
    batches: list[list[Row]] = []
    for epoch in range(math.ceil(conf.epochs)):
        dice = random.Random(f"{seed}:{epoch}")
        shuffled = dice.sample(rows, len(rows))
        size = GROUP * conf.batch_size
        groups = [sorted(shuffled[i : i + size], key=lambda r: r.longest) for i in range(0, len(shuffled), size)]
        ordered = [row for group in groups for row in group]
        epoch_batches = [ordered[i : i + conf.batch_size] for i in range(0, len(ordered), conf.batch_size)]
        dice.shuffle(epoch_batches)
        batches += epoch_batches
    return batches[:steps]


def passes(batch: list[Row], most: int, packed: bool) -> list[list[Row]]:
    """A step's examples in passes of at most `most` tokens, padding included; a longer example has a pass of its own."""
    found: list[list[Row]] = []
    cost = 0
    for row in sorted(batch, key=lambda r: -r.longest):  # stable: like lengths stand together
        copies = 2 if row.rejected else 1
        added = copies * (row.longest if packed or not found else found[-1][0].longest)
        if not found or cost + added > most:
            found.append([])
            added, cost = copies * row.longest, 0
        found[-1].append(row)
        cost += added
    return found


def share(cut: list[list[Row]], rank: int, world: int) -> list[tuple[list[Row], bool]]:
    """One process's passes, and whether each counts: all make the same number, since sharded weights are gathered together."""
    rounds = math.ceil(len(cut) / world)
    return [(cut[i], True) if i < len(cut) else (cut[-1], False) for i in (rank + world * k for k in range(rounds))]


def rate(step: int, steps: int, conf: Train) -> float:
    """Learning rate at a step: linear warm-up, then linear decay to a tenth."""
    warm = max(1, round(steps * conf.warmup))
    if step < warm:
        return conf.learning_rate * (step + 1) / warm
    return conf.learning_rate * (1 - 0.9 * (step - warm) / max(1, steps - warm))
