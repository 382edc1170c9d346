"""What both launchers share: the arguments of a stage, and what its manifest and exit code mean to Airflow."""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from dags.launch import params as chosen
from flywheel import manifest
from flywheel.errors import FlywheelError
from flywheel.settings import settings

ASKED = ("operate", "rollback")  # what a person asks for: the audit log says who
NEVER_RETRIED = {2: "the config or the contract is wrong", 3: "the data is not good enough"}


def trial(context: Any) -> int | None:
    """Which of a mapped stage's tasks this is; None for one that is not mapped."""
    number = getattr(context.get("ti"), "map_index", None)
    return number if number is not None and number >= 0 else None


def run_dir(context: Any) -> str:
    """Where this run's outputs lie; a mapped task has a folder of its own below."""
    run, number = context["dag_run"], trial(context)
    folder = manifest.run_dir(run.dag_id, run.run_id, settings().store)
    return folder if number is None else f"{folder}/trials/{number}"


def rolls_out(context: Any) -> bool:
    """Whether this run may change what is served: a backfilled night does so only when asked."""
    wanted = context["params"].get("rollout", "auto")
    return wanted == "yes" or (wanted == "auto" and context["dag_run"].run_type != "backfill")


def arguments(stage: str, context: Any) -> list[str]:
    """The command line of a stage, after `python -m tasks.<stage>`: the same for every launcher."""
    run, params = context["dag_run"], context["params"]
    end = getattr(run, "data_interval_end", None) or run.run_after
    found = ["--config", params.get("config") or settings().config, "--run-dir", run_dir(context), "--set", f'ingest.interval_end="{end.isoformat()}"']
    if not rolls_out(context):
        found += ["--set", "rollout.enabled=false"]
    for assignment in chosen.assignments(params):
        found += ["--set", assignment]
    if (number := trial(context)) is not None:
        found += ["--set", f"search.trial={number}"]
    if stage in ASKED:  # last, as below
        found += ["--set", f"{stage}.actor={json.dumps(getattr(run, 'triggering_user_name', None) or '')}"]
    if stage == "rollout":  # last, so that no param can claim a person's yes
        found += ["--set", f"rollout.approved_by={json.dumps(context['ti'].xcom_pull(task_ids='approve') or '')}"]
    return found


def finished(stage: str, context: Any) -> dict[str, Any]:
    """What a stage that exited with 0 left behind: its manifest's address and metrics.

    Fails when the manifest is missing, malformed or another run's; skips when the stage had nothing to do.
    """
    try:
        found = manifest.read_for(run_dir(context), stage)
    except FlywheelError as error:
        raise AirflowException(f"{stage} exited with 0 but left no manifest: {error.sentence}") from error
    if found.outcome == "skipped":
        raise AirflowSkipException(found.reason)
    for asset in getattr(context.get("task"), "outlets", ()):  # what the asset graph tells of each event
        rows = sum(a.rows or 0 for a in found.outputs.values())
        context["outlet_events"][asset].extra = {**found.metrics, "rows": rows, "run": found.run_dir, "cached": bool(found.cached_from)}
    return {"manifest": manifest.manifest_uri(run_dir(context), stage), "metrics": found.metrics, "cached": bool(found.cached_from)}


def failed(stage: str, exit_code: int, report: str = "") -> AirflowException:
    """The exception for a stage that ended otherwise: one that Airflow retries, or one that it does not.

    `report` is what the stage wrote as its termination message: cause, where and mend are then said here, too.
    """
    try:
        told = json.loads(report)
        said = " ".join(part for part in (f"{told['where']}: {told['error']}." if told["where"] else f"{told['error']}.", told["mend"]) if part)
    except (ValueError, KeyError, TypeError):
        said = "The last line above says how to mend it."
    if exit_code in NEVER_RETRIED:
        return AirflowFailException(f"{stage} ended with {exit_code}: {NEVER_RETRIED[exit_code]}; a retry would not help. {said}")
    after = said if report else ""
    return AirflowException(f"{stage} ended with {exit_code}; it is retried, and goes on from its last checkpoint if it keeps one. {after}".strip())


def pod_failed(stage: str, exit_code: int | None, told: str) -> AirflowException:
    """The same for a pod, of which more may be known than its exit code, or only that."""
    if told:
        return AirflowException(f"{stage}: {told}")
    return failed(stage, exit_code) if exit_code else AirflowException(f"{stage}: its pod did not end well; the events above are all that is known of it.")
