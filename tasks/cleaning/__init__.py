"""The steps of `clean`. Those of one record are functions of its texts; each is made once from its options.

A new one is an option class in `flywheel/config/steps.py`, a maker in a module here, and a line in RECORD_STEPS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flywheel.config.steps import Step
from tasks.cleaning.record import Judge

RECORD_STEPS: dict[type[Step], Callable[[Any], Judge]] = {}
