"""What went wrong with a pod, in one sentence: from its status and events, or from what the API server answered."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

IMAGE = ("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ErrImageInspect")
DELETED = "its pod was deleted while it ran (by a person, or with its node); a retry goes on from its last checkpoint"
REFUSED = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError")


def of_pod(pod: Any, events: Iterable[Any] = (), pool: str = "", mounted: str = "") -> str:
    """Where, what and the mend; empty when nothing is known but the exit code. `pod` and `events` are the Kubernetes client's objects."""
    status = pod.status
    if status is None:
        return ""
    container = next(iter(status.container_statuses or []), None)
    ended = container.state.terminated if container and container.state else None
    waiting = container.state.waiting if container and container.state else None
    main = pod.spec.containers[0]
    if ended and ended.reason == "OOMKilled":
        limit = (main.resources.limits or {}).get("memory", "its node's memory") if main.resources else "its node's memory"
        return (
            f"the container was killed for want of memory (OOMKilled): its limit is {limit}. "
            f"Raise limits.memory of pool {pool} in the pods file, or make the work smaller (train.micro_tokens, train.batch_size, evaluate.batch_size)."
        )
    if status.reason in ("Evicted", "DeadlineExceeded", "Preempting", "NodeShutdown", "Shutdown", "NodeLost", "UnexpectedAdmissionError"):
        return f"the cluster ended the pod ({status.reason}): {_plain(status.message)}"
    if waiting and waiting.reason in IMAGE:
        return f"the image {main.image} cannot be pulled ({waiting.reason}): {_plain(waiting.message)} Look at `images` in the pods file, and at pull_secret."
    if waiting and waiting.reason in REFUSED:
        return f"the container cannot be made ({waiting.reason}): {_plain(waiting.message)}"
    if status.phase == "Pending":
        for condition in status.conditions or []:
            if condition.type == "PodScheduled" and condition.status == "False":
                return (
                    f"no node takes the pod: {_plain(condition.message)} It asked pool {pool} for {_asked(main)}, on nodes with {_selector(pod)}. "
                    "Are there such nodes, may the autoscaler add one, are they full?"
                )
        for event in reversed(list(events)):
            if event.reason in ("FailedMount", "FailedAttachVolume"):
                return f"a volume cannot be mounted: {_plain(event.message)} Does the Secret exist in namespace {pod.metadata.namespace}? {mounted}".strip()
        return "the pod was given a node and did not start there"
    if pod.metadata.deletion_timestamp and not (ended and ended.exit_code):
        return DELETED
    return ""


def of_api(error: Exception, namespace: str) -> tuple[str, bool]:
    """What the API server said, or that it did not, and whether a retry may help."""
    status = getattr(error, "status", None)
    if not status:
        return f"the Kubernetes API server does not answer ({_plain(str(error))}) Is its address right, is it up, may this machine reach it?", True
    try:
        said = str(json.loads(getattr(error, "body", "") or "{}").get("message", ""))
    except ValueError:
        said = ""
    said = _plain(said or str(getattr(error, "reason", "")))
    if status in (401, 403):
        if "quota" in said:
            return f"the namespace's quota is used up: {said}", True
        mend = "Airflow's service account needs what infra/kubernetes/stages.yaml gives it there." if "forbidden: User" in said or status == 401 else ""
        return f"no right to that in namespace {namespace} ({status}): {said} {mend}".strip(), False
    return f"the Kubernetes API server refused ({status}): {said}", status not in (400, 404, 422)


def _plain(text: str | None) -> str:
    words = " ".join((text or "no reason was given").split())
    return words if words[-1] in ".!?" else f"{words}."


def _asked(container: Any) -> str:
    found = {**(container.resources.requests or {}), **(container.resources.limits or {})} if container.resources else {}
    return ", ".join(f"{value} {name}" for name, value in found.items()) or "nothing"


def _selector(pod: Any) -> str:
    return ", ".join(f"{key}={value}" for key, value in (pod.spec.node_selector or {}).items()) or "any label"
