"""The one interface of the rules: made from its options, applied to the desk."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

from flywheel.config.steps import Step
from tasks.curation.desk import Desk

Options = TypeVar("Options", bound=Step)


class Rule(ABC, Generic[Options]):
    """One rule. What it moves is counted under its name, `options.step`."""

    def __init__(self, options: Options) -> None:
        self.options = options

    @abstractmethod
    def apply(self, desk: Desk) -> None:
        """Look at the cases and send those it has a reason to send."""
