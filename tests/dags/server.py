"""An API server with the pods that a test puts there, and what it says of them."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

from kubernetes.client import ApiClient, ApiException
from kubernetes.client import models as k8s


def plain(made):
    """As it is sent, without what differs between versions of Airflow."""
    found = ApiClient().sanitize_for_serialization(made)
    for each in (found, found["spec"].get("template", {"metadata": {"labels": {}}})):
        each["metadata"]["labels"].pop("airflow_version", None)
        each["metadata"]["labels"].pop("airflow_kpo_in_cluster", None)
    return found


def remote(phase="Failed", ended=None, waiting=None, condition=None, reason=None, message=None, node="node-a"):
    """A pod as the API server would give it."""
    state = k8s.V1ContainerState(
        terminated=k8s.V1ContainerStateTerminated(**ended) if ended else None, waiting=k8s.V1ContainerStateWaiting(**waiting) if waiting else None
    )
    status = k8s.V1ContainerStatus(name="base", image="", image_id="", ready=False, restart_count=0, state=state)
    limits = {"memory": "64Mi", "nvidia.com/gpu": "1"}
    container = k8s.V1Container(name="base", image="registry/x:1", resources=k8s.V1ResourceRequirements(limits=limits))
    return k8s.V1Pod(
        metadata=k8s.V1ObjectMeta(name="flywheel-train", namespace="flywheel", labels={}),
        spec=k8s.V1PodSpec(containers=[container], node_selector={"flywheel/pool": "gpu"}, node_name=node),
        status=k8s.V1PodStatus(
            phase=phase, reason=reason, message=message, container_statuses=[status] if ended or waiting else None,
            conditions=[k8s.V1PodCondition(type="PodScheduled", status="False", message=condition)] if condition else [],
        ),
    )  # fmt: skip


def deleted(**options):
    """One that somebody has deleted."""
    found = remote(**options)
    found.metadata.deletion_timestamp = datetime.now(UTC)
    return found


def event(reason, message):
    return SimpleNamespace(reason=reason, message=message, type="Warning")


def api_error(status, message):
    error = ApiException(status=status, reason="x")
    error.body = json.dumps({"message": message})
    return error


class Server:
    """An API server with the pods that a test puts there."""

    def __init__(self, *pods, refuse=None):
        self.pods, self.refuse, self.created, self.deleted = list(pods), refuse, [], []

    def list_namespaced_pod(self, *_, **__):
        if self.refuse:
            raise self.refuse
        return SimpleNamespace(items=list(self.pods))

    def read_namespaced_pod(self, name, namespace, **_):
        return next(pod for pod in self.pods if pod.metadata.name == name)

    def delete_namespaced_pod(self, name, namespace, **_):
        self.deleted.append(name)
