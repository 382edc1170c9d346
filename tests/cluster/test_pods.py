"""Stages as pods of a real cluster, under a real Airflow that has its service account's rights and no more.

make test-cluster ONLY=tests/cluster/test_pods.py        (images data and train first: `make image FAMILY=data`; twenty minutes)
"""

from __future__ import annotations

import copy
import json
import os
import re
import signal
import subprocess
import time
from contextlib import contextmanager, nullcontext, suppress
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from flywheel import manifest, store
from flywheel.settings import settings
from tests.cluster import wheel as wheels
from tests.cluster.cluster import until
from tests.cluster.wheel import DAG, STAGES, Wheel, first_line, seconds
from tests.e2e.stack import heads
from tests.tasks.conftest import rows


@pytest.fixture(scope="module")
def wheel(cluster, tiny_model, tmp_path_factory):
    with wheels.turning(cluster, tiny_model, rows(240), tmp_path_factory.mktemp("wheel")) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_left(wheel: Wheel):
    """Every test ends with no pod left."""
    yield
    wheel.empty()


def pods_of(wheel: Wheel, run: str, stage: str) -> list:
    """A stage's pods in a run, in order: last night's run, which the schedule begins, has its own."""
    return [pod for pod in wheel.watch.of(**{"app.kubernetes.io/component": stage}) if pod.last["metadata"]["annotations"]["flywheel/run-id"] == run]


def trainings(wheel: Wheel, run: str) -> list:
    """The training pods of a run, in order."""
    return pods_of(wheel, run, "train")


def never_two_at_once(pods: list) -> bool:
    return all(earlier.gone and earlier.gone <= later.phases[0][0] + 1 for earlier, later in pairwise(pods))


def training(wheel: Wheel, run: str, seconds: float = 600):
    """The pod that trains, once it has saved a checkpoint."""
    folder = store.join(manifest.run_dir(DAG, run, settings().store), "train", "checkpoints")

    def saved() -> bool:
        return bool(trainings(wheel, run)) and any(store.list_names(store.join(folder, key)) for key in store.list_names(folder))

    until(saved, seconds, "a checkpoint")
    return trainings(wheel, run)[-1]


def test_a_whole_turn_runs_as_pods_and_only_training_on_the_gpu_node(wheel):
    began = time.monotonic()
    run = wheel.start()
    wheel.succeed(run)
    print(f"\na turn: {time.monotonic() - began:.0f} s")
    ended = {t["task_id"]: t["state"] for t in wheel.api.tasks(DAG, run)}
    assert all(ended[stage] == "success" for stage in STAGES if stage != "rollout") and ended["rollout"] in ("success", "skipped")
    gpu = {node["metadata"]["name"] for node in wheel.cluster.get("nodes", "-l", "accelerator=nvidia")}
    for stage in STAGES:
        assert wheel.task(run, stage)["try_number"] == 1, wheel.log(run, stage, 1)[-4000:]
        (pod,) = pods_of(wheel, run, stage)
        assert (pod.node in gpu) == (stage == "train"), f"{stage} on {pod.node}"
        assert pod.ended["exitCode"] == 0 and pod.labels["flywheel/owner"] == "ml-platform"
        assert manifest.read_for(manifest.run_dir(DAG, run, settings().store), stage).image == wheels.image(
            "train" if stage not in ("ingest", "clean", "tokenize", "dataset") else "data"
        )


def test_what_a_pod_adds_to_a_stage_is_told(wheel):
    """In a turn that is not the first: images are on the nodes, and Airflow has started."""
    run = wheel.start("seed=12")
    wheel.succeed(run)
    print()
    for stage in STAGES:
        print(overhead(wheel, run, stage))


def overhead(wheel: Wheel, run: str, stage: str) -> str:
    """Task start to the container's first line, and its end to the task's success; and when Airflow's log has that line.

    A stage says its first line when its manifest's clock starts. Airflow passes a line on when the next one comes.
    """
    task = wheel.task(run, stage)
    (pod,) = pods_of(wheel, run, stage)
    folder = wheel.home / "logs" / "tasks" / f"dag_id={DAG}" / f"run_id={run}" / f"task_id={stage}"
    began, shown = seconds(task["start_date"]), min(first_line(path, f"{stage} · run ") for path in folder.glob("attempt=1.log*"))
    before = manifest.read_for(manifest.run_dir(DAG, run, settings().store), stage).started.timestamp() - began
    after = seconds(task["end_date"]) - seconds(pod.ended["finishedAt"])
    return f"{stage:9} before {before:5.1f} s, after {after:5.1f} s, together {before + after:5.1f} s; its first line shown after {shown - began:5.1f} s"


def test_a_training_pod_that_is_deleted_is_retried_and_goes_on(wheel):
    run = wheel.start("seed=2", "train.epochs=60")
    pod = training(wheel, run)
    wheel.cluster.kubectl("delete", "pod", pod.name, "-n", wheel.namespace, "--wait=false")
    said = wheel.failed_try(run, "train")
    assert "its pod was deleted while it ran" in said or "train ended with 143" in said, said[-2000:]
    wheel.succeed(run)
    assert "going on from the checkpoint at step" in wheel.log(run, "train", 2)
    found = trainings(wheel, run)
    assert len(found) == 2 and never_two_at_once(found)


def test_a_pod_that_is_killed_for_memory_says_so(wheel):
    limits = {"memory": "40Mi", "ephemeral-storage": "2Gi"}
    with wheel.pods_file(pools=wheel.pool("cpu", requests=limits, limits=limits)):
        run = wheel.start("seed=3")
        assert "OOMKilled): its limit is 40Mi. Raise limits.memory of pool cpu" in wheel.failed_try(run, "ingest")
        wheel.end(run)


@pytest.mark.parametrize("deferrable", [True, False])
def test_a_task_that_is_marked_failed_takes_its_pod_along(wheel, deferrable):
    with wheel.pods_file(train={"deferrable": deferrable}):
        run = wheel.start(f"seed={4 + deferrable}", "train.epochs=400")
        pod = training(wheel, run)
        wheel.mark_failed(run, "train")
        marked = time.monotonic()
        until(lambda: bool(pod.gone), 60, "the pod is deleted")
        print(f"\ndeferrable {deferrable}: the pod was gone after {time.monotonic() - marked:.1f} s")
        assert wheel.follow(run) == "failed" and len(trainings(wheel, run)) == 1


@pytest.mark.parametrize("deferrable", [True, False])
def test_scheduler_and_triggerer_are_killed_and_no_pod_is_lost_or_doubled(wheel, deferrable):
    with wheel.pods_file(train={"deferrable": deferrable}):
        run = wheel.start(f"seed={6 + deferrable}", "train.epochs=60")
        training(wheel, run)
        for name in ("airflow-scheduler", "airflow-triggerer"):
            for process in heads(wheel.home, name):
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
        wheel.succeed(run)
        assert never_two_at_once(trainings(wheel, run))
        print(f"\ndeferrable {deferrable}: {len(trainings(wheel, run))} training pods, {wheel.task(run, 'train')['try_number']} tries")


def test_a_pod_that_ends_well_without_a_manifest_fails_its_task(wheel):
    if not wheel.cluster.program:
        pytest.skip("needs to bring an image of its own to the nodes")
    name = f"{wheels.image('data').rsplit(':', 1)[0]}:idle"
    file = f'FROM {wheels.image("data")}\nUSER root\nRUN echo "print(1)" > /app/tasks/ingest.py\nUSER 1000:1000\n'
    subprocess.run(["docker", "build", "--tag", name, "-"], input=file, text=True, check=True, capture_output=True)
    wheel.cluster.load(name, node="cpu")
    with wheel.pods_file(images={"data": name}):
        run = wheel.start("seed=8")
        assert "ingest exited with 0 but left no manifest" in wheel.failed_try(run, "ingest")
        wheel.end(run)


BAD = {
    "an image that does not exist": (lambda w: {"images": {"data": "local/none:1"}}, "the image local/none:1 cannot be pulled"),
    "a pool without nodes": (lambda w: {"pools": w.pool("cpu", node_selector={"pool": "none"})}, "no node takes the pod.*on nodes with pool=none"),
    "a GPU request that nothing can meet": (
        lambda w: {"pools": w.pool("gpu", limits={"nvidia.com/gpu": "64"}), "ingest": {"pool": "gpu"}}, "Insufficient nvidia.com/gpu.*64 nvidia.com/gpu",
    ),
    "a full node": (lambda w: {"pools": w.pool("cpu", requests={"cpu": "1"})}, "no node takes the pod.*Insufficient cpu"),
    "a namespace without rights": (lambda w: {"namespace": "default"}, r"no right to that in namespace default \(403\).*service account needs"),
    "a missing secret": (lambda w: {"store_secret": "no-such", "ingest": {"startup_seconds": 10}}, 'a volume cannot be mounted.*secret "no-such" not found'),  # pragma: allowlist secret
}  # fmt: skip


@contextmanager
def filled(wheel: Wheel):
    """Somebody else's pod takes nearly all of the cpu node."""
    (node,) = wheel.cluster.get("nodes", "-l", "pool=cpu")
    most = f"{int(node['status']['allocatable']['cpu']) * 1000 - 500}m"
    wheel.cluster.apply(idle(wheel, resources={"requests": {"cpu": most}}))
    try:
        yield
    finally:
        wheel.cluster.kubectl("delete", "pod", "idle", "-n", wheel.namespace)


def idle(wheel: Wheel, **container):
    """A pod that does nothing."""
    spec = {"nodeSelector": {"pool": "cpu"}, "terminationGracePeriodSeconds": 0}
    spec["containers"] = [{"name": "c", "image": wheels.image("data"), "command": ["sleep", "600"], **container}]
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "idle", "namespace": wheel.namespace}, "spec": spec}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named_in_the_log_and_leaves_no_pod(wheel, case):
    change, said = BAD[case]
    with wheel.pods_file(**change(wheel)), filled(wheel) if case == "a full node" else nullcontext():
        run = wheel.start("seed=9")
        log = wheel.failed_try(run, "ingest")
        print(f"\n{case}: {wheel.first_try_seconds(run, 'ingest'):.0f} s: {next((line for line in log.splitlines() if re.search(said, line)), 'NOT SAID')}")
        assert re.search(said, log), log[-3000:]
        wheel.end(run)


def test_an_api_server_that_does_not_answer_is_named(wheel):
    own = Path(os.environ["KUBECONFIG"])
    before = own.read_text()
    try:
        own.write_text(re.sub(r"(server: https?://[^:/\s]+):\d+", r"\1:1", before))
        run = wheel.start("seed=10")
        assert "the Kubernetes API server does not answer" in wheel.failed_try(run, "ingest")
    finally:
        own.write_text(before)
    wheel.end(run)


def test_airflow_may_do_what_its_role_says_and_nothing_else(wheel, tmp_path):
    airflow = wheel.cluster.as_account("airflow", wheel.namespace, tmp_path / "config")
    pod = "run x --image=x --restart=Never"
    allowed = [
        f"get pods -n {wheel.namespace}",
        f"get events -n {wheel.namespace}",
        f"get jobs -n {wheel.namespace}",
        f"{pod} -n {wheel.namespace} --dry-run=server",
    ]
    for command in allowed:
        airflow.kubectl(*command.split())
    forbidden = [
        f"{pod} -n default --dry-run=server", "get pods -n kube-system", "get nodes", "get namespaces", f"get secrets -n {wheel.namespace}",
        f"get secret flywheel-database -n {wheel.namespace}", f"get configmaps -n {wheel.namespace}", f"get services -n {wheel.namespace}",
        f"create deployment x --image=x -n {wheel.namespace} --dry-run=server", f"create serviceaccount x -n {wheel.namespace} --dry-run=server",
        f"create rolebinding x --clusterrole=admin --serviceaccount={wheel.namespace}:airflow -n {wheel.namespace} --dry-run=server",
        f"create clusterrolebinding x --clusterrole=cluster-admin --serviceaccount={wheel.namespace}:airflow --dry-run=server",
        f"delete namespace {wheel.namespace} --dry-run=server", "delete pods --all -n default --dry-run=server",
    ]  # fmt: skip
    for command in forbidden:
        said = airflow.kubectl(*command.split(), check=False)
        assert "forbidden" in said.lower(), f"{command}: {said}"
    wheel.cluster.apply(idle(wheel))
    until(lambda: wheel.cluster.get("pod", "idle", namespace=wheel.namespace)[0]["status"]["phase"] == "Running", 60, "a pod to enter")
    assert "forbidden" in airflow.kubectl("exec", "idle", "-n", wheel.namespace, "--", "true", check=False).lower()
    assert "forbidden" in airflow.kubectl("port-forward", "idle", "1:1", "-n", wheel.namespace, check=False).lower()
    airflow.kubectl("delete", "pod", "idle", "-n", wheel.namespace)
    for account in ("flywheel-data", "flywheel-train", "flywheel-release"):  # the stages' own may do nothing at all
        own = wheel.cluster.as_account(account, wheel.namespace, tmp_path / account)
        for kind in ("pods", "secrets", "configmaps", "jobs", "events"):
            assert "forbidden" in own.kubectl("get", kind, "-n", wheel.namespace, check=False).lower()


def losses(run: str) -> list[float]:
    found = manifest.read_for(manifest.run_dir(DAG, run, settings().store), "train").outputs["losses"]
    return [json.loads(line)["loss"] for line in store.read_bytes(found.location).splitlines()]


def test_two_nodes_train_together(wheel):
    """With the losses of one. Where Kubernetes is too old for Indexed Jobs and has no DNS, the test makes the pods that the Job would be."""
    same = ("seed=11", "train.precision=float32", "train.epochs=0.5")  # some ten steps: later, what sums are rounded to shows
    run = wheel.start(*same)
    wheel.succeed(run)
    alone = losses(run)
    if wheel.cluster.version >= (1, 24):
        with wheel.pods_file(train={"nodes": 2}):
            again = wheel.start(*same, "train.backend=ddp")
            wheel.succeed(again)
            assert len(trainings(wheel, again)) == 2
        assert losses(again) == pytest.approx(alone, abs=1e-3)
        return
    (one,) = trainings(wheel, run)
    first = {"name": "flywheel-nodes-0", "service": "flywheel-train"}
    host = f"{first['name']}.{first['service']}"
    address = "127.0.0.1"  # to the first pod itself
    for index in (0, 1):
        spec = {key: value for key, value in one.last["spec"].items() if key not in ("nodeName", "priority", "affinity")}
        container = copy.deepcopy(spec["containers"][0])
        container["args"] += ["--set", "train.backend=ddp"]
        told = {"FLYWHEEL_NODES": "2", "FLYWHEEL_FIRST_NODE": f"{host}:29500", "JOB_COMPLETION_INDEX": str(index)}
        container["env"] += [{"name": name, "value": value} for name, value in told.items()]
        name = f"flywheel-nodes-{index}"
        spec |= {"containers": [container], "hostname": name, "subdomain": first["service"], "hostAliases": [{"ip": address, "hostnames": [host]}]}
        wheel.cluster.apply({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": wheel.namespace}, "spec": spec})
        until(lambda name=name: bool(wheel.cluster.get("pod", name, namespace=wheel.namespace)[0]["status"].get("podIP")), 60, "the pod's address")
        address = wheel.cluster.get("pod", name, namespace=wheel.namespace)[0]["status"]["podIP"]
    try:
        until(lambda: all(wheel.watch.pods[f"flywheel-nodes-{i}"].ended for i in (0, 1)), 300, "both pods end")
        said = [wheel.cluster.kubectl("logs", f"flywheel-nodes-{i}", "-n", wheel.namespace) for i in (0, 1)]
    finally:
        wheel.cluster.kubectl("delete", "pod", "flywheel-nodes-0", "flywheel-nodes-1", "-n", wheel.namespace, "--ignore-not-found")
    assert [wheel.watch.pods[f"flywheel-nodes-{i}"].ended["exitCode"] for i in (0, 1)] == [0, 0], said
    assert "node 1 has done its share" in said[1]
    assert losses(run) == pytest.approx(alone, abs=1e-3)
