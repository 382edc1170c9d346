"""Golden pods: what Kubernetes would be asked for, whole. After a wanted change: `UPDATE_GOLDEN=1 make test`."""

import json
import os
from pathlib import Path

import pytest
import yaml

from flywheel.settings import REPOSITORY, settings
from tests.dags.server import plain

GOLDEN = Path(__file__).parent / "golden"


FILE = REPOSITORY / "config" / "pods.yaml"


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
