"""What Airflow tells people: a run's note and its message, failures at once, questions. Callbacks: whatever goes wrong here is one line in a log."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import wraps
from typing import Any
from urllib.parse import quote

from dags.launch import base, links
from flywheel import manifest
from flywheel.settings import settings

log = logging.getLogger("flywheel")


def _quietly(tell: Callable[..., None]) -> Callable[..., None]:
    """A message that cannot be sent must not end what it tells of."""

    @wraps(tell)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            tell(*arguments, **options)
        except Exception as error:
            log.warning("nobody could be told (%s: %s)", type(error).__name__, error)

    return run


def _run_links(dag_id: str, run_id: str) -> dict[str, str]:
    return {"Run in Airflow": f"{settings().airflow_url}/dags/{quote(dag_id)}/runs/{quote(run_id)}"}


def note_of(told: dict[str, Any]) -> str:
    """A run's note: how it ended and why, in Markdown."""
    version = f" · version {told['version']}" if told.get("version") else ""
    gain = f" · {told['gain']:+.4f} {str(told['primary']).replace('_', ' ')}" if told.get("gain") is not None else ""
    return f"**{told['ended']}**{version}{gain} · {told['money']:.4f} {told['currency']}\n\n{told['why']}"


@_quietly
def summed_up(context: Any) -> None:
    """After `summary`: the run's note and, unless its failure was told already, one message."""
    from flywheel import notices
    from flywheel.airflow_api import AirflowApi

    run = context["dag_run"]
    told = manifest.read_for(base.run_dir(context), "summary").metrics
    try:
        AirflowApi().note(run.dag_id, run.run_id, note_of(told))
    except Exception as error:  # without credentials there is no note, but still a message
        log.warning("no note was written: %s", error)
    if told["ended"] != "failed":
        facts = {**told, "dag": run.dag_id, "run": run.run_id}
        where = {"The whole turn": links.address(run.dag_id, run.run_id, "turn"), **_run_links(run.dag_id, run.run_id)}
        notices.tell("result", f"result {run.dag_id} {run.run_id}", facts, where)


@_quietly
def failed(context: Any) -> None:
    """A task that is not tried again has failed."""
    from flywheel import notices

    run, task = context["dag_run"], context["task_instance"]
    facts = {"dag": run.dag_id, "run": run.run_id, "task": task.task_id, "why": str(context.get("exception") or "its log says why")}
    notices.tell("failure", f"failure {run.dag_id} {run.run_id} {task.task_id} {task.try_number}", facts, _run_links(run.dag_id, run.run_id))


@_quietly
def asked(context: Any, version: Any, paragraph: str) -> None:
    """A version waits for a person."""
    from flywheel import notices

    run, task = context["dag_run"], context["task_instance"]
    facts = {"version": version, "why": paragraph, "hours": settings().approval_hours, "timeout": settings().approval_timeout, "run": run.run_id}
    ask = {"dag": run.dag_id, "run": run.run_id, "task": "approve"} if settings().link_key else {}
    where = {"Evaluation report": links.address(run.dag_id, run.run_id, "report"), "In Airflow": f"{settings().airflow_url}/required_actions"}
    notices.tell("approval", f"approval {run.dag_id} {run.run_id} {getattr(task, 'try_number', 1)}", facts, where, ask)


@_quietly
def stopped(context: Any) -> None:
    """A run has taken longer than it may, and Airflow has ended it."""
    from flywheel import notices

    dag_id, run_id = context["dag"].dag_id, context["run_id"]
    facts = {"dag": dag_id, "run": run_id, "stopped": True, "why": "It took longer than its DAG allows (FLYWHEEL_STOP_HOURS)."}
    notices.tell("late", f"stopped {dag_id} {run_id}", facts, _run_links(dag_id, run_id))
