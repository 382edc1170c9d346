"""Pods and Jobs whose task is over, and which Airflow could not end itself: nobody waits for them, and they cost money.

That happens when a task is marked failed while the triggerer or its worker is down. Each stage looks before it starts; and a pod
ends by itself when its task's time is up.
"""

from __future__ import annotations

from typing import Any

from kubernetes.client.exceptions import ApiException

OWNER = {key: f"flywheel/{key.replace('_', '-')}" for key in ("dag_id", "run_id", "task_id")}
OVER = ("success", "failed", "skipped", "upstream_failed", "removed")


def owner(context: Any) -> dict[str, str]:
    """Annotations that name a pod's task in full; labels hold only what a label may."""
    ti = context["ti"]
    return {annotation: str(getattr(ti, key)) for key, annotation in OWNER.items()}


def sweep(client: Any, namespace: str, context: Any, log: Any) -> None:
    """Delete what belongs to a task that is over. What cannot be looked at is left."""
    try:
        found = client.list_namespaced_pod(
            namespace, label_selector="app.kubernetes.io/name=flywheel,kubernetes_pod_operator=True", _request_timeout=(10, 60)
        ).items
    except ApiException as error:
        log.warning("leftovers were not looked for: %s", error.reason)
        return
    for pod in found:
        names = pod.metadata.annotations or {}
        if pod.metadata.deletion_timestamp or not all(annotation in names for annotation in OWNER.values()):
            continue
        dag_id, run_id, task_id = (names[OWNER[key]] for key in ("dag_id", "run_id", "task_id"))
        state = context["ti"].get_task_states(dag_id=dag_id, task_ids=[task_id], run_ids=[run_id]).get(run_id, {}).get(task_id)
        if state not in OVER:
            continue
        log.warning("deleting pod %s: its task %s of %s is over (%s)", pod.metadata.name, task_id, run_id, state)
        try:
            client.delete_namespaced_pod(pod.metadata.name, namespace)
        except ApiException as error:
            log.warning("it could not be deleted: %s", error.reason)
