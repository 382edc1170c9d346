"""Golden pods: what Kubernetes would be asked for, whole. After a wanted change: `UPDATE_GOLDEN=1 make test`."""

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import pytest
from kubernetes.client import ApiClient

from flywheel.settings import settings

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("stage", ["ingest", "dataset", "train", "rollout"])
def test_pod(stage, monkeypatch):
    for name, value in {"LAUNCHER": "kubernetes", "STORE": "s3://bucket/flywheel", "CONFIG": "s3://bucket/config.yaml", "HOME": "/srv/flywheel"}.items():
        monkeypatch.setenv(f"FLYWHEEL_{name}", value)
    settings.cache_clear()
    from airflow.sdk import DAG

    from dags.launch import stage as make

    with DAG("flywheel", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        operator = make(stage)
    run = SimpleNamespace(
        dag_id="flywheel", run_id="manual__2026-01-01T00:00:00+00:00", run_type="manual", data_interval_end=None, run_after=datetime(2026, 1, 1, tzinfo=UTC),
        logical_date=None,
    )  # fmt: skip
    ti = SimpleNamespace(dag_id="flywheel", task_id=stage, run_id=run.run_id, try_number=1, map_index=-1, xcom_pull=lambda task_ids: None)
    context = {"dag_run": run, "params": {"set": ["train.epochs=2"]}, "ti": ti, "task_instance": ti, "run_id": run.run_id, "dag": dag, "task": operator}
    operator.random_name_suffix = False
    operator.hook = SimpleNamespace(is_in_cluster=True)  # rendering asks for nothing else of a cluster
    operator.render_template_fields(context)
    pod = ApiClient().sanitize_for_serialization(operator.build_pod_request_obj(context))
    pod["metadata"]["labels"].pop("airflow_version", None)
    pod["metadata"]["labels"].pop("airflow_kpo_in_cluster", None)
    text = json.dumps(pod, indent=1, sort_keys=True) + "\n"
    path = GOLDEN / f"{stage}.json"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()
    settings.cache_clear()


def test_a_misspelt_key_is_refused():
    from dags.launch.kubernetes import Pods

    with pytest.raises(ValueError, match="tolerations_"):
        Pods.model_validate({"namespace": "x", "database_secret": "y", "pools": {"cpu": {"requests": {}, "limits": {}, "tolerations_": []}}, "stages": {}})
