"""Golden pods: what Kubernetes would be asked for, whole. After a wanted change: `UPDATE_GOLDEN=1 make test`."""

import json
import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from airflow.sdk.exceptions import AirflowException, AirflowFailException, TaskDeferred
from kubernetes.client import ApiClient, ApiException
from kubernetes.client import models as k8s
from urllib3.exceptions import MaxRetryError

from flywheel.settings import REPOSITORY, settings

GOLDEN = Path(__file__).parent / "golden"
FILE = REPOSITORY / "config" / "pods.yaml"


class State(dict):
    """Airflow's state of a task, which outlives a try."""

    def set(self, key, value):
        self[key] = value


@pytest.fixture
def make(monkeypatch):
    """A stage's operator and the context of its run; keywords change the stage's entry in the pods file."""
    from dags.launch import stage as launch
    from dags.launch.pods import pods

    for name, value in {"LAUNCHER": "kubernetes", "STORE": "s3://bucket/flywheel", "CONFIG": "s3://bucket/config.yaml", "HOME": "/srv/flywheel"}.items():
        monkeypatch.setenv(f"FLYWHEEL_{name}", value)
    settings.cache_clear()
    pods.cache_clear()

    def made(name, **changes):
        from airflow.sdk import DAG

        pods().stages[name] = pods().stages[name].model_copy(update=changes)
        with DAG("flywheel", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
            operator = launch(name, execution_timeout=timedelta(hours=6))
        run = SimpleNamespace(
            dag_id="flywheel", run_id="manual__2026-01-01T00:00:00+00:00", run_type="manual", data_interval_end=None,
            run_after=datetime(2026, 1, 1, tzinfo=UTC), logical_date=None,
        )  # fmt: skip
        ti = SimpleNamespace(
            dag_id="flywheel", task_id=name, run_id=run.run_id, try_number=1, map_index=-1, start_date=datetime.now(UTC),
            xcom_pull=lambda task_ids: None, xcom_push=lambda **_: None,
        )  # fmt: skip
        context = {
            "dag_run": run, "params": {"set": ["train.epochs=2"]}, "ti": ti, "task_instance": ti, "run_id": run.run_id, "dag": dag, "task": operator,
            "task_state_store": State(),
        }  # fmt: skip
        operator.random_name_suffix = False
        operator.hook = SimpleNamespace(is_in_cluster=True)  # rendering asks for nothing else of a cluster
        operator.render_template_fields(context)
        return operator, context

    yield made
    settings.cache_clear()
    pods.cache_clear()


def plain(made):
    """As it is sent, without what differs between versions of Airflow."""
    found = ApiClient().sanitize_for_serialization(made)
    for each in (found, found["spec"].get("template", {"metadata": {"labels": {}}})):
        each["metadata"]["labels"].pop("airflow_version", None)
        each["metadata"]["labels"].pop("airflow_kpo_in_cluster", None)
    return found


def golden(name, found):
    text = json.dumps(found, indent=1, sort_keys=True) + "\n"
    path = GOLDEN / f"{name}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize("stage", ["ingest", "train", "review"])
def test_pod(stage, make):
    operator, context = make(stage)
    golden(stage, plain(operator.build_pod_request_obj(context)))


def test_job_of_several_nodes(make):
    operator, context = make("train", nodes=2, pool="multi-gpu")
    job = plain(operator.build_job_request_obj(context))
    golden("train-nodes", job)
    assert (job["spec"]["completionMode"], job["spec"]["completions"], job["spec"]["parallelism"], job["spec"]["backoffLimit"]) == ("Indexed", 2, 2, 0)
    pod = job["spec"]["template"]["spec"]
    told = {variable["name"]: variable.get("value") for variable in pod["containers"][0]["env"]}
    assert told["FLYWHEEL_NODES"] == "2" and told["FLYWHEEL_FIRST_NODE"] == f"{job['metadata']['name']}-0.{pod['subdomain']}:29500"


class Jobs:
    """The Jobs of such a server: a new one's pods appear at once, a deleted one takes its pods along."""

    def __init__(self, server, *jobs):
        self.server, self.jobs, self.deleted = server, list(jobs), []

    def list_namespaced_job(self, *_, label_selector):
        wanted = dict(pair.split("=") for pair in label_selector.split(","))
        return SimpleNamespace(items=[job for job in self.jobs if wanted.items() <= job.metadata.labels.items()])

    def delete_namespaced_job(self, name, namespace, propagation_policy):
        assert propagation_policy == "Foreground"
        self.deleted.append(name)
        self.server.pods.clear()


@pytest.mark.parametrize(
    ("codes", "failed", "kind", "said"),
    [
        ((None, None), None, None, ""),
        ((143, 75), "BackoffLimitExceeded", AirflowException, "train ended with 75; it is retried"),
        ((2, None), "BackoffLimitExceeded", AirflowFailException, "train ended with 2"),
    ],
)
def test_a_job_is_followed_explained_and_not_left_behind(make, monkeypatch, codes, failed, kind, said):
    from dags.launch import base

    operator, context = make("train", nodes=2)
    server = operator.client = Server()
    earlier = k8s.V1Job(metadata=k8s.V1ObjectMeta(name="earlier", labels=operator.build_job_request_obj(context).metadata.labels))
    stranger = k8s.V1Job(metadata=k8s.V1ObjectMeta(name="stranger", labels={"app.kubernetes.io/name": "flywheel", "run_id": "another"}))
    jobs = operator.job_client = Jobs(server, earlier, stranger)
    followed = []

    def create(job_request_obj):
        assert jobs.deleted == ["earlier"] and not followed
        for index in (1, 0):
            pod = remote(
                "Running" if codes[index] is None else "Failed",
                ended={"exit_code": codes[index], "reason": "Error"} if codes[index] else None,
                node=f"node-{index}",
            )
            pod.metadata = k8s.V1ObjectMeta(name=f"pod-{index}", namespace="flywheel", annotations={"batch.kubernetes.io/job-completion-index": str(index)})
            server.pods.append(pod)
        return job_request_obj

    operator.create_job = create
    operator.await_pod_start = lambda pod: followed.append(pod.metadata.name)
    operator.await_pod_completion = lambda pod: followed.append(f"lines of {pod.metadata.name}")
    operator.pod_manager = SimpleNamespace(read_pod_events=lambda _: SimpleNamespace(items=[]))
    operator.hook.wait_until_job_complete = lambda *_, **__: None
    operator.hook.is_job_failed = lambda _: failed
    monkeypatch.setattr(base, "finished", lambda stage, context: {"metrics": {}})
    if kind is None:
        assert operator.execute(context) == {"metrics": {}}
    else:
        with pytest.raises(AirflowException, match=said) as caught:
            operator.execute(context)
        assert type(caught.value) is kind
    assert followed == ["pod-0", "pod-1", "lines of pod-0"]
    assert jobs.deleted == ["earlier", "job-flywheel-train"] and server.pods == []
    assert context["task_state_store"].get("failed_nodes", []) == [f"node-{i}" for i in (0, 1) if codes[i]]


def test_every_pod_meets_the_restricted_standard_and_holds_no_secret(make):
    """Kubernetes' Pod Security Standard `restricted`, rule by rule; each stage has limits, an owner, and a deadline of its own."""
    from dags.launch.pods import pods

    for name in pods().stages:
        operator, context = make(name)
        spec = plain(operator.build_pod_request_obj(context))["spec"]
        (container,) = spec["containers"]
        assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False and own["capabilities"] == {"drop": ["ALL"]} and own["readOnlyRootFilesystem"]
        assert all(set(v) - {"name"} <= {"emptyDir", "projected"} for v in spec["volumes"]) and not spec["hostNetwork"]
        assert spec["automountServiceAccountToken"] is False and spec["enableServiceLinks"] is False
        assert (
            spec["activeDeadlineSeconds"]
            == 6 * 3600 + pods().stages[name].grace_seconds
            == operator.execution_timeout.total_seconds() + spec["terminationGracePeriodSeconds"]
        )
        assert {"memory", "ephemeral-storage"} <= set(container["resources"]["limits"])
        assert "valueFrom" not in json.dumps(container["env"]) and "secretRef" not in json.dumps(container)
        mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
        assert mounts["secrets"]["readOnly"] and {"scratch", "tmp"} <= set(mounts)


def test_queue_priority_and_shared_memory_are_the_pools(make):
    from dags.launch.pods import pods

    pods().pools["gpu"].queue = "training"
    operator, context = make("train")
    pod = plain(operator.build_pod_request_obj(context))
    assert pod["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "training" and pod["spec"]["priorityClassName"] == "flywheel-training"
    assert {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "4Gi"}} in pod["spec"]["volumes"]
    job, context = make("train", nodes=2)
    assert plain(job.build_job_request_obj(context))["spec"]["suspend"] is True  # Kueue lets it begin


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: f["pools"]["cpu"].update(tolerations_=[]), "tolerations_"),
        (lambda f: f["stages"]["train"].update(pool="tpu"), "stages.train.pool: there is no tpu. Use one of cpu, gpu, multi-gpu"),
        (lambda f: f["stages"]["train"].update(image="x:1"), "there is no x:1"),
        (lambda f: f["stages"]["gate"].update(nodes=2), "only train"),
        (lambda f: f.update(pinned=True), "is a tag, and pinned is set"),
    ],
)
def test_a_wrong_file_is_refused(change, said, tmp_path, monkeypatch):
    from dags.launch.pods import pods

    file = yaml.safe_load(FILE.read_text())
    change(file)
    (tmp_path / "pods.yaml").write_text(yaml.safe_dump(file))
    monkeypatch.setenv("FLYWHEEL_PODS", str(tmp_path / "pods.yaml"))
    settings.cache_clear()
    pods.cache_clear()
    with pytest.raises(ValueError, match=said):
        pods()
    settings.cache_clear()


def test_a_missing_file_is_named(tmp_path, monkeypatch):
    from dags.launch.pods import pods

    monkeypatch.setenv("FLYWHEEL_PODS", str(tmp_path / "none.yaml"))
    settings.cache_clear()
    pods.cache_clear()
    with pytest.raises(ValueError, match=r"none.yaml.*Set FLYWHEEL_PODS"):
        pods()
    settings.cache_clear()


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


@pytest.mark.parametrize(
    ("pod", "events", "said"),
    [
        (remote(ended={"exit_code": 137, "reason": "OOMKilled"}), [], "OOMKilled): its limit is 64Mi. Raise limits.memory of pool gpu"),
        (remote(reason="Evicted", message="The node was low on resource: ephemeral-storage"), [], "ended the pod (Evicted): The node was low"),
        (remote("Pending", waiting={"reason": "ErrImagePull", "message": "not found"}), [], "image registry/x:1 cannot be pulled (ErrImagePull): not found."),
        (remote("Pending", waiting={"reason": "CreateContainerConfigError", "message": 'secret "a" not found'}), [], 'secret "a" not found'),
        (remote("Pending", condition="0/2 nodes are available: 2 Insufficient nvidia.com/gpu."), [], "2 Insufficient nvidia.com/gpu. It asked pool gpu for 64Mi memory, 1 nvidia.com/gpu, on nodes with flywheel/pool=gpu."),
        (remote("Pending"), [event("FailedMount", 'references non-existent secret key: secret "flywheel-database" not found')], 'secret "flywheel-database" not found. Does the Secret exist in namespace flywheel'),
        (remote(ended={"exit_code": 75, "reason": "Error"}), [], ""),
        (deleted(ended={"exit_code": 143, "reason": "Error"}), [], ""),
        (deleted(), [], "its pod was deleted while it ran"),
    ],
)  # fmt: skip
def test_trouble_with_a_pod_is_a_sentence(pod, events, said):
    from dags.launch import trouble

    found = trouble.of_pod(pod, events, "gpu")
    assert said in found and bool(said) == bool(found)


def api_error(status, message):
    error = ApiException(status=status, reason="x")
    error.body = json.dumps({"message": message})
    return error


@pytest.mark.parametrize(
    ("error", "said", "retried"),
    [
        (MaxRetryError(None, "https://10.0.0.1", "refused"), "API server does not answer", True),
        (api_error(403, 'pods is forbidden: User "system:serviceaccount:a:b" cannot create resource "pods"'), "no right to that in namespace n (403)", False),
        (api_error(403, "pods is forbidden: exceeded quota: gpus"), "quota is used up", True),
        (api_error(404, 'namespaces "n" not found'), 'refused (404): namespaces "n" not found.', False),
        (api_error(500, "etcd"), "refused (500): etcd.", True),
    ],
)
def test_trouble_with_the_api_server_is_a_sentence(error, said, retried):
    from dags.launch import trouble

    sentence, again = trouble.of_api(error, "n")
    assert said in sentence and again is retried


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


def test_secrets_are_files_that_count_as_variables(tmp_path, monkeypatch):
    (tmp_path / "..data").mkdir()
    (tmp_path / "FLYWHEEL_DATABASE_URL").write_text("postgresql+psycopg://elsewhere/x\n")
    (tmp_path / "FLYWHEEL_CURRENCY").write_text("EUR")
    (tmp_path / "credentials").write_text("[default]")
    monkeypatch.setenv("FLYWHEEL_SECRETS_DIR", str(tmp_path))
    monkeypatch.setenv("FLYWHEEL_CURRENCY", "CHF")
    monkeypatch.delenv("FLYWHEEL_DATABASE_URL", raising=False)
    settings.cache_clear()
    assert (settings().database_url, settings().currency) == ("postgresql+psycopg://elsewhere/x", "CHF")
    settings.cache_clear()
    assert "credentials" not in os.environ
    os.environ.pop("FLYWHEEL_DATABASE_URL")
