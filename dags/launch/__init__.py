"""How a stage is started: `stage("train")` gives a task of whichever launcher FLYWHEEL_LAUNCHER names.

The DAG files do not know which: `local` is a subprocess of the stages' environment, `kubernetes` a pod, or several.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flywheel.settings import settings

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator


def retried(delay: timedelta = timedelta(seconds=15), **options: Any) -> dict[str, Any]:
    """`default_args` of every DAG: whose it is, and that what may pass is tried twice more."""
    return {"owner": "ml-platform", "retries": 2, "retry_delay": delay, **options}


def stage(name: str, **options: Any) -> BaseOperator:
    """The task that runs `python -m tasks.<name>`; its id is the stage's name."""
    from dags.launch import explain, links

    options = {"doc_md": explain.of(name), "on_failure_callback": tell_failure, **options}
    task: BaseOperator
    if settings().launcher == "kubernetes":
        from dags.launch.kubernetes import KubernetesStage  # importing it takes seconds: only where it is used
        from dags.launch.pods import pods

        several = pods().stages[name].nodes > 1
        if several:
            from dags.launch.nodes import NodesStage

            task = NodesStage(stage=name, task_id=name, **options)
        else:
            task = KubernetesStage(stage=name, task_id=name, **options)
        task.operator_extra_links = (*links.of(name), *([] if several else [links.PodLink()]))
        return task
    from dags.launch.local import LocalStage

    task = LocalStage(stage=name, task_id=name, **options)
    task.operator_extra_links = tuple(links.of(name))
    return task


def note_failure(context: Any) -> None:
    """The failure callback of every DAG: one line that an alert can be made from, and a message when the run was stopped for its time."""
    run, task = context.get("dag_run"), context.get("task_instance")
    where = f"{run.dag_id if run else '?'} {run.run_id if run else '?'} {getattr(task, 'task_id', '')}".strip()
    logging.getLogger("flywheel").error("flywheel failure: %s: %s", where, context.get("exception") or context.get("reason") or "see the task's log")
    if context.get("reason") == "timed_out":
        from dags.launch import telling

        telling.stopped(context)


def tell_failure(context: Any) -> None:
    """The failure callback of every task: people are told at once."""
    from dags.launch import telling

    telling.failed(context)
