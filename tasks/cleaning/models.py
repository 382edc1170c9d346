"""Optional models of the steps, each a local folder that transformers reads. None is loaded unless a step names one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from flywheel.errors import ContractError

STRIDE = 16  # tokens that two windows over a long text share


def classifier(folder: str, labels: tuple[str, ...]) -> Callable[[str], float]:
    """A sequence classifier: from a text to the summed score of these labels. Raises ContractError without such a model or labels."""
    where = f"clean.steps: toxicity.model: {folder}"
    model = _pipeline("text-classification", folder, where)
    known = {str(label).lower() for label in model.model.config.id2label.values()}
    wanted = {label.lower() for label in labels}
    if not wanted & known:
        raise ContractError(f"none of its labels ({', '.join(sorted(known))}) is a toxic one", where=where, mend="Name them in toxic_labels.")

    def score(text: str) -> float:
        return sum(found["score"] for found in model(text, top_k=None, truncation=True) if found["label"].lower() in wanted)

    return score


def names(folder: str, min_score: float) -> Callable[[str], list[tuple[int, int]]]:
    """A token classifier: from a text to where the names of persons (PER, PERSON) begin and end in it."""
    model = _pipeline("token-classification", folder, f"clean.steps: personal.names: {folder}", aggregation_strategy="simple", stride=STRIDE)

    def spans(text: str) -> list[tuple[int, int]]:
        return [(f["start"], f["end"]) for f in model(text) if f["entity_group"].upper() in ("PER", "PERSON") and f["score"] >= min_score]

    return spans


def _pipeline(task: str, folder: str, where: str, **options: Any) -> Any:
    if not Path(folder).is_dir():
        raise ContractError("there is no such folder", where=where, mend="Name a folder with a transformers model and its tokenizer.")
    import transformers

    try:
        pipeline: Any = transformers.pipeline  # its overloads want the task as a literal
        return pipeline(task, model=folder, device="cpu", **options)
    except (OSError, ValueError) as error:
        raise ContractError(f"this is no model for {task} ({' '.join(str(error).split())[:200]})", where=where, mend="Name another folder.") from error
