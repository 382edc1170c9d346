"""A run of the DAG `flywheel`, as a task sees it, and what its stages left."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace


def context(**params):
    run = SimpleNamespace(
        dag_id="flywheel", run_id="manual__2026-01-01T00:00:00+00:00", run_type="manual", data_interval_end=None, run_after=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return {"dag_run": run, "params": params, "ti": SimpleNamespace(xcom_pull=lambda task_ids: params.get("person"))}


def write_manifest(home, name="ingest", **change):
    run = "runs/flywheel/manual__2026-01-01T00_00_00_00_00"
    now = datetime.now(UTC).isoformat()
    body = {
        "schema_version": 1,
        "stage": "ingest",
        "run_dir": run,
        "attempt": 1,
        "cache_key": "k",
        "started": now,
        "ended": now,
        "metrics": {"records": 3},
        **change,
    }
    path = home / "store" / run / name / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))
