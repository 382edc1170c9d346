"""The laptop's Airflow with the Kubernetes launcher: stages run as pods of a real cluster, with the rights of Airflow's service account.

The store is a real S3 API (moto) on this machine; pods reach it, PostgreSQL and MLflow at the address of this machine that they see.
The nodes are labelled `pool=cpu` and `accelerator=nvidia`; the second kind has the taint and the resource of nvidia.com/gpu.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import sqlalchemy as sa
import yaml

from flywheel.airflow_api import AirflowApi
from flywheel.settings import REPOSITORY, port, settings
from flywheel.turn import find
from tests.cluster.cluster import Cluster, Watch, reachable, until
from tests.conftest import free_port
from tests.e2e import stack

DAG = "flywheel"
STAGES = ("ingest", "clean", "tokenize", "train", "dataset", "parity", "evaluate", "gate", "register", "rollout")
CONFIG = """
model: {base: 's3://flywheel/models/tiny', max_length: 256}
ingest: {sources: [{kind: files, path: 's3://flywheel/records.jsonl', licence: CC0-1.0, consent: made here}], heldout: 0.25}
clean: {steps: [unicode, length, exact_duplicates, decontamination]}
train: {learning_rate: 0.01, rank: 8, threads: 1, epochs: 2, start: base, min_new_examples: 0, checkpoint_seconds: 2}
evaluate: {examples: 60, generate: 6, max_new_tokens: 8, suites: [], embedder: ''}
gate: {general_margin: 10, slice_margin: 10}
parity: {tolerance: 1}
rollout: {wait_seconds: 0}
"""
ENDED = ("success", "failed")


def image(family: str) -> str:
    """An image as `make image` names it."""
    return f"{os.environ.get('REGISTRY', 'local')}/flywheel/{family}:{os.environ.get('TAG', 'dev')}"


@dataclass
class Wheel:
    """Turns, and what tests look at."""

    cluster: Cluster
    home: Path
    namespace: str
    file: Path  # the pods file
    watch: Watch
    api: AirflowApi
    plain: dict[str, Any] = field(default_factory=dict)  # the pods file as it is between tests

    def start(self, *changes: str) -> str:
        """A turn by hand; returns its run id."""
        find(self.api, DAG)
        self.api.unpause(DAG)
        return self.api.trigger(DAG, {"config": "s3://flywheel/config.yaml", "set": list(changes)})

    @contextmanager
    def pods_file(self, **changes: Any) -> Iterator[None]:
        """Change the pods file for a while: a stage's entry by its name, everything else by its key."""
        changed = copy.deepcopy(self.plain)
        for key, value in changes.items():
            if key in changed["stages"]:
                changed["stages"][key] |= value
            elif isinstance(value, dict):
                changed[key] |= value
            else:
                changed[key] = value
        self.write(changed)
        try:
            yield
        finally:
            self.write(self.plain)

    def pool(self, name: str, **changes: Any) -> dict[str, Any]:
        """A pool, changed, for `pods_file`."""
        return {name: self.plain["pools"][name] | changes}

    def write(self, content: dict[str, Any]) -> None:
        """At once, since Airflow may read it at any moment."""
        new = self.file.with_suffix(".new")
        new.write_text(yaml.safe_dump(content))
        new.replace(self.file)

    def task(self, run: str, task: str) -> dict[str, Any]:
        """One task of a run."""
        return next(t for t in self.api.tasks(DAG, run) if t["task_id"] == task)

    def log(self, run: str, task: str, attempt: int | None = None) -> str:
        """A task's log, the triggerer's part included; of one try, or of all."""
        folder = self.home / "logs" / "tasks" / f"dag_id={DAG}" / f"run_id={run}" / f"task_id={task}"
        wanted = f"attempt={attempt}.log*" if attempt else "attempt=*.log*"
        lines = [line for path in sorted(folder.glob(wanted)) for line in path.read_text(errors="replace").splitlines()]
        return "\n".join(str(json.loads(line).get("event", line)) + _exceptions(line) if line.startswith("{") else line for line in lines)

    def follow(self, run: str, seconds: float = 1200) -> str:
        """To its end; returns its state."""
        until(lambda: self.api.run(DAG, run)["state"] in ENDED, seconds, f"the end of {run}")
        return str(self.api.run(DAG, run)["state"])

    def succeed(self, run: str) -> None:
        """Follow it to its end, which must be a good one; else, the ends of the logs of what failed."""
        if self.follow(run) != "success":
            failed = [task["task_id"] for task in self.api.tasks(DAG, run) if task["state"] == "failed"]
            raise AssertionError("\n".join(f"{task}:\n{self.log(run, task)[-4000:]}" for task in failed))

    def mark_failed(self, run: str, task: str) -> None:
        """As a person does in Airflow's page."""
        self.api._call("PATCH", f"/dags/{DAG}/dagRuns/{quote(run)}/taskInstances/{task}", json={"new_state": "failed"})

    def end(self, run: str) -> None:
        """Mark a run failed, whatever it does; its pods go."""
        self.api._call("PATCH", f"/dags/{DAG}/dagRuns/{quote(run)}", json={"state": "failed"})

    def empty(self, seconds: float = 150) -> None:
        """Wait until no pod is left."""
        until(lambda: not self.cluster.get("pods", namespace=self.namespace), seconds, "no pod is left behind")

    def failed_try(self, run: str, task: str, seconds: float = 300) -> str:
        """Wait until a task has failed once; returns that try's log."""
        until(lambda: self.task(run, task)["state"] in ("up_for_retry", "failed") or self.task(run, task)["try_number"] > 1, seconds, f"{task} fails")
        return self.log(run, task, 1)

    def first_try_seconds(self, run: str, task: str) -> float:
        """How long a task's first try took, without what it waited for Airflow."""
        found = self.api._call("GET", f"/dags/{DAG}/dagRuns/{quote(run)}/taskInstances/{task}/tries/1")
        return seconds(found["end_date"]) - seconds(found["start_date"])


def _exceptions(line: str) -> str:
    return "".join(f"\n{each.get('exc_type')}: {each.get('exc_value')}" for each in json.loads(line).get("error_detail") or [])


def manifests(namespace: str) -> list[dict[str, Any]]:
    """infra/kubernetes/stages.yaml for one namespace that holds both Airflow's account and the stages."""
    found = [each for each in yaml.safe_load_all((REPOSITORY / "infra" / "kubernetes" / "stages.yaml").read_text()) if each["kind"] != "Namespace"]
    for each in found:
        if each["kind"] == "PriorityClass":  # another name than an installation's own
            each["metadata"]["name"] = f"{namespace}-training"
        if "namespace" in each["metadata"]:
            each["metadata"]["namespace"] = namespace
        for subject in each.get("subjects", []):
            subject["namespace"] = namespace
    return [*found, {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "airflow", "namespace": namespace}}]


def pods_file(cluster: Cluster, namespace: str, s3: int, mlflow: int) -> dict[str, Any]:
    """The pods file: config/pods.yaml's stages on small pools."""
    found = yaml.safe_load((REPOSITORY / "config" / "pods.yaml").read_text())
    size = {"cpu": "100m", "memory": "300Mi", "ephemeral-storage": "1Gi"}
    limits = {"memory": "2Gi", "ephemeral-storage": "2Gi"}
    taint = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    found |= {
        "namespace": namespace,
        "store_secret": "flywheel-store",  # pragma: allowlist secret
        "images": {"data": image("data"), "train": image("train"), "features": image("data")},
        "environment": {
            "AWS_ENDPOINT_URL": f"http://{cluster.host}:{s3}", "AWS_DEFAULT_REGION": "us-east-1", "FLYWHEEL_MLFLOW_URL": f"http://{cluster.host}:{mlflow}",
        },
        "pools": {
            "cpu": {"node_selector": {"pool": "cpu"}, "requests": size, "limits": limits},
            "gpu": {
                "node_selector": {"accelerator": "nvidia"}, "tolerations": [taint], "requests": size, "limits": limits | {"nvidia.com/gpu": "1"},
                "shared_memory": "64Mi", "priority_class": f"{namespace}-training",
            },
        },
    }  # fmt: skip
    for name, stage in found["stages"].items():  # training alone goes to the GPU node
        stage |= {"pool": "gpu" if name == "train" else "cpu", "schedule_seconds": 20, "startup_seconds": 60, "grace_seconds": 20}
    return found


@contextmanager
def turning(cluster: Cluster, model: Path, records: list[dict[str, str]], folder: Path) -> Iterator[Wheel]:
    """Everything up; `model` is the base model's folder."""
    namespace, s3 = "flywheel-pods", free_port()
    before = dict(os.environ)
    with cluster.namespace(namespace, {"pod-security.kubernetes.io/enforce": "restricted"}):
        cluster.apply(*manifests(namespace))
        airflow = cluster.as_account("airflow", namespace, folder / "airflow.kubeconfig")
        cluster.load(image("data"), node="cpu")
        cluster.load(image("train"))
        moto = subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(s3)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )  # fmt: skip
        (folder / "credentials").write_text("[default]\naws_access_key_id = x\naws_secret_access_key = x\n")
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{s3}", "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"), "AWS_DEFAULT_REGION": "us-east-1",
            "FLYWHEEL_STORE": "s3://flywheel/store", "FLYWHEEL_LAUNCHER": "kubernetes", "FLYWHEEL_PODS": str(folder / "pods.yaml"),
            "KUBECONFIG": airflow.kubeconfig,
        }  # fmt: skip
        settings.cache_clear()
        watch = Watch(cluster, namespace)
        try:
            _fill(s3, model, records)
            # the stack needs a pods file before its ports are known: Airflow reads it again for each task
            first = pods_file(cluster, namespace, s3, 1)
            (folder / "pods.yaml").write_text(yaml.safe_dump(first))
            with stack.running(CONFIG, "") as made:
                os.environ |= {name: value for name, value in made.environment.items() if name.startswith("FLYWHEEL_")}
                settings.cache_clear()
                database, mlflow = sa.make_url(settings().database_url), port(settings().mlflow_url)
                url = database.set(host=cluster.host).render_as_string(hide_password=False)
                for name, data in {"flywheel-database": {"url": url}, "flywheel-store": {"credentials": (folder / "credentials").read_text()}}.items():
                    cluster.apply({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": namespace}, "stringData": data})
                plain = pods_file(cluster, namespace, s3, mlflow)
                wheel = Wheel(cluster, made.home, namespace, folder / "pods.yaml", watch, AirflowApi(), plain)
                wheel.write(plain)
                with reachable([s3, mlflow, database.port or 5432], cluster.host):
                    yield wheel
        finally:
            watch.stop()
            cluster.kubectl("delete", "priorityclass", f"{namespace}-training")
            moto.terminate()
            moto.wait()
            os.environ.clear()
            os.environ.update(before)
            settings.cache_clear()


def _fill(s3: int, model: Path, records: list[dict[str, str]]) -> None:
    import boto3

    client = boto3.client("s3")

    def answers() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{s3}/", timeout=2).status_code < 500
        except httpx.HTTPError:
            return False

    until(answers, 60, "the S3 server")
    client.create_bucket(Bucket="flywheel")
    client.put_object(Bucket="flywheel", Key="config.yaml", Body=CONFIG.encode())
    client.put_object(Bucket="flywheel", Key="records.jsonl", Body="".join(json.dumps(r) + "\n" for r in records).encode())
    for file in model.iterdir():
        client.upload_file(str(file), "flywheel", f"models/tiny/{file.name}")


def seconds(stamp: str) -> float:
    """Of an ISO time, since 1970."""
    return datetime.fromisoformat(stamp).timestamp()


def first_line(log_file: Path, words: str) -> float:
    """When a line with these words came into a task's log, since 1970; infinity when none did."""
    lines = (json.loads(line) for line in log_file.read_text().splitlines() if line.startswith("{"))
    return min((seconds(line["timestamp"]) for line in lines if words in str(line.get("event"))), default=float("inf"))
