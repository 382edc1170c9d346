"""A search over settings of `train`: which combinations are tried, on how much, and what a trial's result depends on."""

from __future__ import annotations

import itertools
import random
from typing import Any

from pydantic import Field, ValidationError, field_validator

from flywheel.config.section import Section, Share
from flywheel.config.training import Train


class Search(Section):
    """Every trial learns from the same examples and is judged on the same others, whose groups no trial saw; the gate's are in neither."""

    grid: dict[str, tuple[Any, ...]] = Field({"learning_rate": (2e-4, 4e-4, 8e-4), "rank": (8, 16)}, description="Settings of `train`, and the values to try")
    trials: int = Field(6, ge=1, le=1000, description="Budget: at most so many combinations of the grid, drawn by seed")
    examples: int = Field(400, ge=2, description="Budget: at most so many examples are learned in a trial, an epoch")
    set_aside: float = Field(0.2, gt=0, lt=1, description="Share of the training groups that trials are judged on")
    judged: int = Field(120, ge=2, description="At most so many of their examples are scored")
    trial: int = Field(0, ge=0, description="Which combination this is. Set by the DAG")

    @field_validator("grid")
    @classmethod
    def _can_be_tried(cls, grid: dict[str, tuple[Any, ...]]) -> dict[str, tuple[Any, ...]]:
        for name, values in grid.items():
            if name not in Train.model_fields:
                raise ValueError(f"train has no setting {name}")
            if not values:
                raise ValueError(f"{name} has no value to try")
            for value in values:
                try:
                    Train.model_validate({name: value})
                except ValidationError as error:
                    raise ValueError(f"{name} cannot be {value}: {error.errors()[0]['msg']}") from error
        return grid

    def combinations(self, seed: int) -> list[dict[str, Any]]:
        """The changes to `train` of each trial, in order: a pure function of the settings and the seed."""
        every = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        return every if len(every) <= self.trials else random.Random(seed).sample(every, self.trials)


class Trial(Section):
    """Everything that one trial's result depends on."""

    train: Train
    examples: int
    set_aside: Share
    judged: int
