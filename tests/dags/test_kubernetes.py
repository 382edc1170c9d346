"""The Kubernetes launcher: failures are explained, pods never doubled nor left behind."""

import logging
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from kubernetes.client import ApiException
from kubernetes.client import models as k8s
from urllib3.exceptions import MaxRetryError

from tests.dags.server import Server, api_error, plain, remote


def test_an_api_server_that_does_not_answer_and_a_missing_right_are_said(make):
    operator, context = make("ingest")
    operator.client = Server(refuse=MaxRetryError(None, "https://10.0.0.1", "refused"))
    with pytest.raises(AirflowException, match="ingest: the Kubernetes API server does not answer"):
        operator.execute(context)
    operator.client = Server()
    operator.get_or_create_pod = lambda **_: (_ for _ in ()).throw(api_error(403, "pods is forbidden: User x cannot create"))
    with pytest.raises(AirflowFailException, match="no right to that in namespace flywheel"):
        operator.execute(context)


@pytest.mark.parametrize(
    ("pod", "kind", "said", "noted"),
    [
        (remote(ended={"exit_code": 137, "reason": "OOMKilled"}), AirflowException, "train: the container was killed for want of memory", ["node-a"]),
        (remote(ended={"exit_code": 2, "reason": "Error"}), AirflowFailException, "train ended with 2", ["node-a"]),
        (remote(ended={"exit_code": 143, "reason": "Error"}), AirflowException, "train ended with 143", ["node-a"]),
        (remote("Pending", condition="0/1 nodes are available", node=None), AirflowException, "train: no node takes the pod", None),
    ],
)
def test_a_failed_pod_is_explained_deleted_and_its_node_avoided(make, pod, kind, said, noted):
    operator, context = make("train")
    operator.client = Server(pod)
    operator.pod_manager = SimpleNamespace(
        read_pod=lambda _: pod, read_pod_events=lambda _: SimpleNamespace(items=[]), delete_pod=lambda p: operator.client.deleted.append(p.metadata.name)
    )
    operator.client.patch_namespaced_pod = lambda **_: None
    with pytest.raises(AirflowException, match=said) as caught:
        operator.cleanup(pod, pod, None, context)
    assert type(caught.value) is kind
    assert operator.client.deleted == ["flywheel-train"] and context["task_state_store"].get("failed_nodes") == noted
    again = plain(operator.build_pod_request_obj(context))["spec"].get("affinity", {})
    preferred = again.get("nodeAffinity", {}).get("preferredDuringSchedulingIgnoredDuringExecution", [])
    assert [term["preference"]["matchExpressions"][0]["values"] for term in preferred] == ([noted] if noted else [])


def test_what_never_started_is_not_waited_for(make, monkeypatch):
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    operator, context = make("train")
    seen = []
    monkeypatch.setattr(
        KubernetesPodOperator,
        "trigger_reentry",
        lambda self, context, event: seen.append(event["status"]) or (_ for _ in ()).throw(TaskDeferred(trigger=None, method_name="x")),
    )
    for phase in ("Pending", "Running"):
        operator.client = Server(remote(phase))
        with pytest.raises(TaskDeferred):
            operator.trigger_reentry(context, {"status": "error", "name": "flywheel-train", "namespace": "flywheel", "message": ""})
    assert seen == ["timeout", "error"]


def test_only_pods_of_tasks_that_are_over_are_swept(make):
    from dags.launch import leftovers

    _, context = make("ingest")
    made = {}
    for name, state in {"a": "failed", "b": "running", "c": "up_for_retry", "d": None}.items():
        made[name] = remote("Running")
        made[name].metadata = k8s.V1ObjectMeta(
            name=name, annotations={"flywheel/dag-id": "flywheel", "flywheel/run-id": f"run-{state}", "flywheel/task-id": "train"}
        )
    gone, foreign = remote("Running"), remote("Running")
    gone.metadata = k8s.V1ObjectMeta(name="gone", annotations=made["a"].metadata.annotations, deletion_timestamp=datetime.now(UTC))
    foreign.metadata = k8s.V1ObjectMeta(name="foreign")
    context["ti"].get_task_states = lambda dag_id, task_ids, run_ids: {
        run_ids[0]: {"train": None if run_ids[0] == "run-None" else run_ids[0].removeprefix("run-")}
    }
    server = Server(*made.values(), gone, foreign)
    leftovers.sweep(server, "flywheel", context, logging.getLogger())
    assert server.deleted == ["a"]
    leftovers.sweep(Server(refuse=ApiException(status=403)), "flywheel", context, logging.getLogger())  # is left for another time


def test_a_pod_that_is_being_ended_is_waited_for(make, monkeypatch):
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator

    from dags.launch import kubernetes

    operator, context = make("train")
    ending = remote("Running")
    ending.metadata.deletion_timestamp = datetime.now(UTC)
    operator.client = Server(ending)
    waited = []
    monkeypatch.setattr(kubernetes.time, "sleep", lambda seconds: waited.append(seconds) or operator.client.pods.clear())
    monkeypatch.setattr(KubernetesPodOperator, "get_or_create_pod", lambda self, request, context: list(operator.client.pods))
    assert operator.get_or_create_pod(None, context) == [] and waited
