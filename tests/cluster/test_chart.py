"""The chart on a real cluster: it becomes ready, its replicas follow the registry, and an upgrade fails no request.

make test-cluster ONLY=tests/cluster/test_chart.py        (images serving and ui first: `make image FAMILY=serving`; ten minutes)

What the cluster's version does not know is left out. PostgreSQL, MLflow's registry and S3 (moto) are on this machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import yaml

from flywheel import ledger, manifest, registry
from flywheel.laptop import postgres
from flywheel.ledger.schema import feedback
from flywheel.registry import TAG, Version
from flywheel.settings import port, settings
from serving.auth import new_key
from tests.charts import rendered
from tests.cluster.cluster import Cluster, reachable, until
from tests.cluster.wheel import image, seconds
from tests.conftest import free_port
from tests.serving.test_pool import adapter  # noqa: F401

NAMESPACE, CLIENTS, READY_SECONDS = "flywheel-chart", 16, 900
CONFIG = "model: {base: 's3://flywheel/models/tiny'}\ningest: {sources: [{kind: docs, licence: x, consent: y}]}\n"
SMALL = {"requests": {"cpu": "50m", "memory": "200Mi"}, "limits": {"memory": "2Gi"}}


@dataclass
class Installation:
    """The release on the cluster, and this machine's part of it."""

    cluster: Cluster
    values: dict[str, Any]
    mlflow: str  # as pods see it
    key: str
    ready_seconds: float = 0.0
    objects: list[dict[str, Any]] = field(default_factory=list)

    def render(self, **serving: Any) -> list[dict[str, Any]]:
        """What the chart gives and this cluster's version knows."""
        values = {**self.values, "serving": {**self.values["serving"], **serving}}
        known = set(self.cluster.kubectl("api-versions").split())
        return [one for one in rendered(values, NAMESPACE, is_upgrade=bool(self.objects), is_install=not self.objects) if one["apiVersion"] in known]

    def by_address(self, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The same, with addresses in the place of Services' names where the cluster has no DNS; the registry is this machine's."""
        text = json.dumps(objects)
        for one in objects:
            if one["kind"] == "ConfigMap" and "FLYWHEEL_MLFLOW_URL" in one["data"]:
                text = text.replace(f'"FLYWHEEL_MLFLOW_URL": "{one["data"]["FLYWHEEL_MLFLOW_URL"]}"', f'"FLYWHEEL_MLFLOW_URL": "{self.mlflow}"')
        if self.cluster.program:
            for service in self.cluster.get("service", namespace=NAMESPACE):
                text = text.replace(f"http://{service['metadata']['name']}:", f"http://{service['spec']['clusterIP']}:")
        return list(json.loads(text))

    def apply(self, **serving: Any) -> None:
        """As `helm upgrade --install` does: hooks first, then the rest, and wait until it is ready."""
        objects = self.render(**serving)
        hooks = [one for one in objects if "helm.sh/hook" in one["metadata"].get("annotations", {})]
        plain = [one for one in objects if one not in hooks]
        began = time.monotonic()
        for job in [one for one in hooks if one["kind"] == "Job"]:
            self.cluster.kubectl("delete", "job", job["metadata"]["name"], "-n", NAMESPACE, "--ignore-not-found")
            self.cluster.apply(job, namespace=NAMESPACE)
            self.cluster.kubectl("wait", "--for=condition=complete", f"job/{job['metadata']['name']}", "-n", NAMESPACE, "--timeout=300s", seconds=310)
        self.cluster.apply(*[one for one in plain if one["kind"] == "Service"], namespace=NAMESPACE)
        self.objects = self.by_address(objects)
        self.cluster.apply(*[one for one in self.objects if "helm.sh/hook" not in one["metadata"].get("annotations", {})], namespace=NAMESPACE)
        self.wait()
        self.ready_seconds = time.monotonic() - began

    def wait(self) -> None:
        """Until every Deployment is what it should be."""
        for one in [one for one in self.objects if one["kind"] == "Deployment"]:
            command = ("rollout", "status", f"deployment/{one['metadata']['name']}", "-n", NAMESPACE, f"--timeout={READY_SECONDS}s")
            self.cluster.kubectl(*command, seconds=READY_SECONDS + 10)

    @property
    def url(self) -> str:
        """Of serving, as this machine reaches it."""
        (service,) = self.cluster.get("service", "flywheel-serving", namespace=NAMESPACE)
        return f"http://{service['spec']['clusterIP']}:8000"

    def replicas(self) -> list[dict[str, Any]]:
        """Serving's pods that are not leaving."""
        found = self.cluster.get("pods", "-l", "app.kubernetes.io/component=serving", namespace=NAMESPACE)
        return [pod for pod in found if not pod["metadata"].get("deletionTimestamp")]

    def served(self) -> list[str]:
        """The version that each replica answers with."""
        return [httpx.get(f"http://{pod['status']['podIP']}:8000/readyz", timeout=10).json().get("model_version", "") for pod in self.replicas()]

    @contextmanager
    def asked(self, number: int = CLIENTS) -> Iterator[tuple[list[str], list[str]]]:
        """So many clients on connections that they keep; gives the versions that answered, in order, and what failed."""
        over, versions, failures = threading.Event(), [], []

        def person(which: int) -> None:
            with httpx.Client(base_url=self.url, timeout=120, headers={"authorization": f"Bearer {self.key}"}) as client:
                while not over.is_set():
                    try:
                        reply = client.post("/v1/generate", json={"instruction": f"{which} {uuid.uuid4()}", "max_new_tokens": 4})
                    except httpx.HTTPError as error:
                        failures.append(repr(error))
                        continue
                    if reply.status_code == 200:
                        versions.append(reply.json()["model_version"])
                    else:
                        failures.append(f"{reply.status_code} {reply.text}")

        people = [threading.Thread(target=person, args=(which,)) for which in range(number)]
        for one in people:
            one.start()
        try:
            yield versions, failures
        finally:
            over.set()
            for one in people:
                one.join()


def secret(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


@contextmanager
def object_store(folder: str, model) -> Iterator[int]:
    """An S3 on this machine with the config and the tiny model; gives its port."""
    import boto3

    number = free_port()
    os.environ |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{number}", "AWS_SHARED_CREDENTIALS_FILE": folder, "AWS_DEFAULT_REGION": "us-east-1"}
    moto = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(number)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{number}/", timeout=2).status_code < 500
        except httpx.HTTPError:
            return False

    try:
        until(answers, 60, "the S3 server")
        client = boto3.client("s3")
        client.create_bucket(Bucket="flywheel")
        client.put_object(Bucket="flywheel", Key="config.yaml", Body=CONFIG.encode())
        for file in model.iterdir():
            client.upload_file(str(file), "flywheel", f"models/tiny/{file.name}")
        yield number
    finally:
        moto.terminate()
        moto.wait()


@pytest.fixture(scope="module")
def installation(cluster, postgres_server, mlflow_process, tiny_model, tmp_path_factory):
    folder, before = tmp_path_factory.mktemp("chart"), dict(os.environ)
    (folder / "credentials").write_text("[default]\naws_access_key_id = x\naws_secret_access_key = x\n")
    names = {name: f"{name}_{uuid.uuid4().hex[:8]}" for name in ("flywheel", "mlflow")}
    for name in names.values():
        with postgres.connect(postgres_server, "postgres") as db:
            db.execute(f"create database {name}")
    url = {key: postgres_server.set(database=name) for key, name in names.items()}
    key, entry = new_key("test", ["generate", "feedback"])
    try:
        with object_store(str(folder / "credentials"), tiny_model) as s3, cluster.namespace(NAMESPACE, {"pod-security.kubernetes.io/enforce": "restricted"}):
            os.environ |= {
                "FLYWHEEL_STORE": "s3://flywheel/store", "FLYWHEEL_MLFLOW_URL": mlflow_process, "FLYWHEEL_MODEL_NAME": f"model-{uuid.uuid4().hex[:8]}",
                "FLYWHEEL_DATABASE_URL": url["flywheel"].render_as_string(hide_password=False), "FLYWHEEL_HOME": str(folder / "home"),
            }  # fmt: skip
            settings.cache_clear()
            cluster.load(image("serving"), image("ui"), node="cpu")  # none of it tolerates the taint of GPU nodes
            far = {name: one.set(host=cluster.host).render_as_string(hide_password=False) for name, one in url.items()}
            cluster.apply(
                secret("flywheel-database", url=far["flywheel"]), secret("mlflow-database", url=far["mlflow"]),
                secret("flywheel-store", credentials=(folder / "credentials").read_text()), secret("keys", **{"keys.yaml": yaml.safe_dump([entry])}),
                namespace=NAMESPACE,
            )  # fmt: skip
            registry_name, _, tag = image("serving").rpartition(":")
            values = {
                "store": "s3://flywheel/store", "config": "s3://flywheel/config.yaml", "storeSecret": "flywheel-store",  # pragma: allowlist secret
                "modelName": settings().model_name, "image": {"registry": registry_name.removesuffix("/flywheel/serving"), "tag": tag},
                "aws": {"region": "us-east-1", "endpoint": f"http://{cluster.host}:{s3}"}, "stages": {"priorityClass": False},
                "serving": {"replicas": 2, "keysSecret": "keys", "resources": SMALL, "cacheSize": "2Gi",  # pragma: allowlist secret
                            "settings": {"THREADS": "1", "KV_TOKENS": "4096", "RATE_LIMITS": "{}"}},
                "mlflow": {"workers": 1, "resources": SMALL, "allowedHosts": ["10.*"]}, "migrations": {"resources": SMALL},
                **{part: {"resources": SMALL} for part in ("ui", "feedbackWorker", "exporter")},
            }  # fmt: skip
            with reachable([s3, sa.make_url(far["flywheel"]).port or 5432, port(mlflow_process)], cluster.host):
                made = Installation(cluster, values, f"http://{cluster.host}:{port(mlflow_process)}", key)
                made.apply()
                yield made
    finally:
        os.environ.clear()
        os.environ.update(before)
        settings.cache_clear()


def register(folder, tiny_adapter, name: str) -> int:
    """A version of the tiny model with that adapter, as the stage registers one."""
    client, model = registry.client(), settings().model_name
    if client.get_experiment_by_name(model) is None:  # the worker, too, makes it, for feedback
        client.create_experiment(model)
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model)
    package = folder / name
    (package / "adapter").mkdir(parents=True)
    for file in tiny_adapter.iterdir():
        if file.is_file():
            (package / "adapter" / file.name).write_bytes(file.read_bytes())
    (package / "name").write_text(name)
    artifact, whole = manifest.describe(package / "adapter", f"runs/{name}/adapter"), manifest.describe(package, f"runs/{name}")
    run = client.create_run(client.get_experiment_by_name(model).experiment_id).info
    client.log_artifacts(run.run_id, str(package), "model")
    version = Version(
        base="s3://flywheel/models/tiny", prompt="auto", adapter=artifact, package=whole, dataset=name, trained_ids=artifact, suites=artifact, reference=None,
        parent=None, verdict="promote", reason="because", run_dir=f"runs/{name}",
    )  # fmt: skip
    return int(client.create_model_version(model, f"{run.artifact_uri}/model", run.run_id, tags={TAG: version.model_dump_json(exclude={"version"})}).version)


def test_it_becomes_ready_and_every_part_answers(installation):
    cluster = installation.cluster
    loads = [
        line
        for pod in installation.replicas()
        for line in cluster.kubectl("logs", pod["metadata"]["name"], "-n", NAMESPACE).splitlines()
        if "loaded version" in line
    ]
    print(f"\nready {installation.ready_seconds:.0f} s after the first object; {loads}")
    pods = cluster.get("pods", "-l", "app.kubernetes.io/instance=flywheel", namespace=NAMESPACE)
    for pod in pods:
        when = {each["type"]: seconds(each["lastTransitionTime"]) for each in pod["status"]["conditions"]}
        print(f"{pod['metadata']['name']}: {when['Ready'] - when['PodScheduled']:.0f} s")
    assert {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in pods} >= {"serving", "ui", "mlflow", "feedback-worker", "exporter"}
    assert all(status["restartCount"] == 0 for pod in pods for status in pod["status"].get("containerStatuses", []))
    (test,) = [one for one in installation.objects if one["kind"] == "Pod"]
    cluster.kubectl("delete", "pod", test["metadata"]["name"], "-n", NAMESPACE, "--ignore-not-found")
    cluster.apply(test, namespace=NAMESPACE)
    ended = ("Succeeded", "Failed")
    until(lambda: cluster.get("pod", test["metadata"]["name"], namespace=NAMESPACE)[0]["status"]["phase"] in ended, 120, "the end of the test")
    said = cluster.kubectl("logs", test["metadata"]["name"], "-n", NAMESPACE)
    assert len(said.splitlines()) == 4 and all(line.endswith(" 200") for line in said.splitlines()), said
    assert httpx.post(f"{installation.url}/v1/generate", json={"instruction": "x"}).status_code == 401  # the door asks who comes


def test_feedback_is_sealed_by_the_worker(installation):
    headers = {"authorization": f"Bearer {installation.key}"}
    answer = httpx.post(f"{installation.url}/v1/generate", json={"instruction": "x", "max_new_tokens": 2}, headers=headers, timeout=60).json()
    said = {"answer_id": answer["answer_id"], "idempotency_key": uuid.uuid4().hex, "thumb": "up"}
    given = httpx.post(f"{installation.url}/v1/feedback", json=said, headers=headers).json()

    def done() -> bool:
        with ledger.transaction() as db:
            row = db.execute(feedback.select().where(feedback.c.id == given["id"])).one()
        return row.segment is not None and row.logged is not None

    until(done, 60, "sealed and told")


def test_replicas_follow_the_registry_to_a_new_adapter_and_back_under_load(installation, adapter, tmp_path):  # noqa: F811
    one, two = (register(tmp_path, adapter, name) for name in ("one", "two"))
    registry.promote(one, "test", "better")
    until(lambda: installation.served() == [str(one)] * 2, 180, "both replicas serve the first version")
    with installation.asked() as (versions, failures):
        until(lambda: len(versions) > 100, 120, "a hundred answers")
        registry.promote(two, "test", "better still")
        until(lambda: installation.served() == [str(two)] * 2, 180, "both replicas serve the second version")
        registry.rollback("test", "worse after all")
        until(lambda: installation.served() == [str(one)] * 2, 60, "both replicas are back")
        asked = len(versions)
        until(lambda: len(versions) > asked + 100, 120, "a hundred answers more")
    print(f"\n{len(versions)} answers, {len(failures)} failed")
    assert not failures and set(versions) == {str(one), str(two)} and set(versions[-50:]) == {str(one)}


def test_a_rolling_upgrade_under_load_fails_no_request(installation):
    before = {pod["metadata"]["name"] for pod in installation.replicas()}
    with installation.asked() as (versions, failures):
        until(lambda: len(versions) > 100, 120, "a hundred answers")
        installation.apply(podAnnotations={"upgrade": uuid.uuid4().hex})
        until(lambda: not before & {p["metadata"]["name"] for p in installation.cluster.get("pods", namespace=NAMESPACE)}, 300, "the old pods are gone")
        asked = len(versions)
        until(lambda: len(versions) > asked + 100, 120, "a hundred answers more")
    after = {pod["metadata"]["name"] for pod in installation.replicas()}
    print(f"\n{len(versions)} answers, {len(failures)} failed; upgraded in {installation.ready_seconds:.0f} s")
    assert not failures and len(after) == 2 and not after & before
