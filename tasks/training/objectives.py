"""The three losses. Each scores sequences with the model as it is and, for dpo and kto, as it was when training began.

The loss of a pass is a sum; dividing by the whole step's weight makes it the same however a step is cut into passes and processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from flywheel.config import Train
from flywheel.errors import DataError
from tasks.training.rows import Row

if TYPE_CHECKING:
    from torch import Tensor

Example = tuple[Sequence[int], int]  # token ids, and how many of them are the prompt
Score = Callable[[list[Example]], "Tensor"]  # summed negative log-probability of each answer, in nats


class Supervised:
    """sft: cross-entropy of the answers' tokens."""

    def __init__(self, rows: list[Row], conf: Train) -> None:
        pass

    def sequences(self, row: Row) -> list[Example]:
        """What the model reads of an example."""
        return [(row.ids, row.prompt)]

    def weight(self, batch: list[Row]) -> float:
        """What a step's loss is divided by."""
        return sum(len(row.tokens) - row.prompt for row in batch)

    def remember(self, rows: list[Row], score: Score) -> None:
        """Score the examples before anything is learned."""

    def begin(self, batch: list[Row], score: Score) -> None:
        """Look at the whole step before its passes."""

    def loss(self, rows: list[Row], scores: Tensor) -> Tensor:
        """Summed loss of a pass."""
        return scores.sum()


class Preferred(Supervised):
    """dpo: the better answer gains on the worse one, measured from where training began (Rafailov et al. 2023)."""

    def __init__(self, rows: list[Row], conf: Train) -> None:
        self.beta = conf.beta
        self.before: dict[str, Tensor] = {}

    def sequences(self, row: Row) -> list[Example]:
        """The better answer, then the worse."""
        return [(row.ids, row.prompt), (list(map(int, row.rejected)), row.prompt)]

    def weight(self, batch: list[Row]) -> float:
        """Pairs."""
        return len(batch)

    def remember(self, rows: list[Row], score: Score) -> None:
        """Both answers' scores."""
        scores = score([s for row in rows for s in self.sequences(row)]).reshape(len(rows), -1)
        self.before |= {row.id: one for row, one in zip(rows, scores, strict=True)}

    def margins(self, rows: list[Row], scores: Tensor) -> Tensor:
        """By how much each better answer has gained on the worse one, in nats times beta."""
        import torch

        gained = torch.stack([self.before[row.id] for row in rows]) - scores.reshape(len(rows), -1)
        return self.beta * (gained[:, 0] - gained[:, 1])

    def loss(self, rows: list[Row], scores: Tensor) -> Tensor:
        """Of a pass."""
        import torch

        return -torch.nn.functional.logsigmoid(self.margins(rows, scores)).sum()


class Thumbs(Preferred):
    """kto: liked answers gain and disliked ones lose, against how much any answer gains (Ethayarajh et al. 2024).

    What any answer gains is measured on answers to other questions, once a step and without gradient. The rarer thumb counts for
    more, so that both sides have the same say.
    """

    def __init__(self, rows: list[Row], conf: Train) -> None:
        super().__init__(rows, conf)
        liked = sum(bool(row.liked) for row in rows)
        if not liked or liked == len(rows):
            said = "up" if liked else "down"
            raise DataError(f"every thumb is {said}", where="train.objective kto", mend="It learns from both: wait for the other, or use sft.")
        self.say = {True: len(rows) / (2 * liked), False: len(rows) / (2 * (len(rows) - liked))}
        self.other = dict(zip((row.id for row in rows), [*rows[1:], rows[0]], strict=True))
        self.longest = max(row.longest for row in rows)
        self.drift = 0.0

    def sequences(self, row: Row) -> list[Example]:
        """The answer."""
        return [(row.ids, row.prompt)]

    def elsewhere(self, row: Row) -> Example:
        """The question with the answer to another one."""
        other = self.other[row.id]
        return (row.ids[: row.prompt] + other.ids[other.prompt :])[: max(row.prompt + 1, self.longest)], row.prompt

    def remember(self, rows: list[Row], score: Score) -> None:
        """The answer, and the other question's."""
        super().remember(rows, score)
        others = score([self.elsewhere(row) for row in rows])
        self.before |= {f"{row.id} elsewhere": one for row, one in zip(rows, others, strict=True)}

    def begin(self, batch: list[Row], score: Score) -> None:
        """How much any answer has gained: an estimate of the divergence, never below 0."""
        gained = [float(self.before[f"{row.id} elsewhere"] - now) for row, now in zip(batch, score([self.elsewhere(row) for row in batch]), strict=True)]
        self.drift = max(0.0, sum(gained) / len(gained))

    def margins(self, rows: list[Row], scores: Tensor) -> Tensor:
        """By how much each answer gained where it was liked, or lost where it was not, in nats times beta."""
        import torch

        gained = torch.stack([self.before[row.id][0] for row in rows]) - scores
        sign = torch.tensor([1.0 if row.liked else -1.0 for row in rows], device=scores.device)
        return self.beta * sign * (gained - self.drift)

    def loss(self, rows: list[Row], scores: Tensor) -> Tensor:
        """Of a pass."""
        import torch

        say = torch.tensor([self.say[bool(row.liked)] for row in rows], device=scores.device)
        return (say * (1 - torch.sigmoid(self.margins(rows, scores)))).sum()


OBJECTIVES: dict[str, type[Supervised]] = {"sft": Supervised, "dpo": Preferred, "kto": Thumbs}
