"""One click back: end the rollout that goes on, or serve an earlier version again."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from dags.launch import note_failure, params, retried, stage

DOC = """
### Back to an earlier version

```text
 champion, a rollout ─▶ rollback ─▶ the version before is the champion ─▶ serving follows
```

Trigger it as it is: a rollout that goes on is ended and everybody gets the champion; without one, the version served before is the champion
again. To choose a version, add `rollback.to=3` under *Changes*. Servers follow within seconds; the audit log (`flywheel events`) has who
and why. **Red**: the last line of the log says why, for instance that the gate had refused that version.
"""

with DAG(
    "rollback",
    description="Serve an earlier version again",
    doc_md=DOC,
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=retried(execution_timeout=timedelta(minutes=10)),
    params=params.changes("rollback.to=3, or rollback.reason=it is rude"),
    tags=["flywheel", "serving"],
    on_failure_callback=note_failure,
) as dag:
    stage("rollback")
