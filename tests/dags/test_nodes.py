"""Training on several nodes: an Indexed Job."""

from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import models as k8s

from tests.dags.server import Server, plain, remote
from tests.dags.test_pods import golden


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
