"""Tasks of EleutherAI's lm-evaluation-harness by name, scored by the harness itself on the loaded model.

Nothing is downloaded: a task's data must be in the `datasets` cache, or the task a YAML file of your own in `evaluate.harness.folder`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel import store
from flywheel.config import Harness
from flywheel.errors import ContractError
from flywheel.manifest import Artifact, describe
from flywheel.model import Loaded

if TYPE_CHECKING:
    from lm_eval.tasks import TaskManager

WHERE = "evaluate.harness"


def inputs(conf: Harness) -> dict[str, Artifact]:
    """What the scores hang on: the harness's version, the questions asked, and your own tasks' files."""
    if not conf.tasks:
        return {}
    found = {"harness": Artifact(uri="lm-evaluation-harness", sha256=store.sha256_text(version("lm-eval"), str(conf.limit), *conf.tasks), bytes=0)}
    if conf.folder:
        if not Path(conf.folder).is_dir():
            raise ContractError("there is no such folder", where=f"{WHERE}.folder: {conf.folder}", mend="Name the folder with your tasks' YAML files.")
        found["harness.folder"] = describe(Path(conf.folder), conf.folder)
    return found


def suite(task: str) -> str:
    """The name of the suite that a task's documents make."""
    return f"harness-{task}"


def score(loaded: Loaded, conf: Harness, task: str, batch_size: int) -> list[dict[str, Any]]:
    """A row for each document of a task: its id and the task's first metric, which must lie in [0, 1].

    Raises ContractError when there is no such task, its data is not at hand, or it has no such metric.
    """
    with _quiet_and_offline():
        from lm_eval import evaluator
        from lm_eval.models.huggingface import HFLM

        known = _known(conf.folder, defaults=False) if conf.folder else None
        if known is None or task not in known.all_subtasks:
            known = _known(conf.folder, defaults=True)
        if task not in known.all_subtasks:
            raise ContractError(
                f"the harness knows no task {task}", where=f"{WHERE}.tasks", mend="Name single tasks, no groups; `lm-eval ls subtasks` lists them."
            )
        model = HFLM(pretrained=loaded.model, tokenizer=loaded.tokenizer, batch_size=batch_size)
        try:
            found = evaluator.simple_evaluate(model=model, tasks=[task], task_manager=known, limit=conf.limit, log_samples=True, bootstrap_iters=0)
        except OSError as error:
            mend = "Load the data set once where there is a network and copy the `datasets` cache, or write the task with `dataset_path: json`."
            raise ContractError(f"its data is not at hand ({error})", where=f"{WHERE}.tasks: {task}", mend=mend) from error
    samples = found["samples"][task]
    metric = str(found["configs"][task]["metric_list"][0]["metric"])
    values = [float(sample.get(metric, -1)) for sample in samples]
    if not values or not all(0 <= value <= 1 for value in values):
        raise ContractError(f"its metric {metric} is no share of right answers", where=f"{WHERE}.tasks: {task}", mend="Choose a task with acc or exact_match.")
    return [{"id": f"{task}/{sample['doc_id']}", "slice": "all", "harness": value} for sample, value in zip(samples, values, strict=True)]


@cache
def _known(folder: str, *, defaults: bool) -> TaskManager:
    """The tasks of a folder, and the harness's own only where asked for: it reads thousands of files for them, half a minute's work."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=folder or None, include_defaults=defaults)


@contextmanager
def _quiet_and_offline() -> Iterator[None]:
    """The harness must neither download nor draw progress bars into a task's log."""
    wanted = {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1", "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    for name in ("lm_eval", "lm-eval"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
