"""A home for a test; and stages as pods, with nothing asked of a cluster."""

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest

from flywheel.settings import settings


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


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
