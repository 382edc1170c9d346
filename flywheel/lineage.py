"""Trace a piece of feedback forward: to its batch, its training example, and every version that learned from it."""

from __future__ import annotations

import json
from typing import Any

from flywheel import ledger, registry
from flywheel.records import Feedback, example_id
from flywheel.settings import settings


def example_of(feedback: Feedback) -> str:
    """The id of the training example that a correction becomes, or an empty string without a correction."""
    return example_id(feedback.prompt.strip(), feedback.input.strip(), feedback.correction.strip()) if feedback.correction else ""


def of_feedback(feedback_id: str) -> dict[str, Any]:
    """Answer, version, segment, batch, example, and the versions that learned from it. Raises ContractError when it is unknown."""
    found = ledger.trace(feedback_id)
    example = example_of(Feedback.model_validate({k: v for k, v in found.items() if k not in ("segment", "batch")}))
    learned = [v.version for v in registry.versions() if example and example in json.loads(v.trained_ids.fetch(settings().home / "cache").read_bytes())]
    return {**found, "example": example, "learned_by": sorted(learned)}
