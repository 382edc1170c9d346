"""Every night: forget what was kept as long as it may be, delete what is old and needed by nothing living, tidy the databases."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from dags.launch import note_failure, params, retried, stage

DOC = """
### Retention

`housekeep` forgets feedback whose `keep_until` has passed (at most `FLYWHEEL_RETENTION_DAYS` after it was given): out of the ledger, the
segments, the batches and MLflow, with a proof in the store's `feedback/forgotten`. Then it deletes from the store what is older than
`housekeep` in the config says and what no living version rests on, tells of each file in `deleted.jsonl`, and reports the store's size by area.
What is under a legal hold (`flywheel holds`) stays.

To see what would go: trigger it with `housekeep.delete=false` under *Changes*.

**When it is red**, mend what its last line says and clear it: a forgetting that was cut off is finished by the next one.
"""

with DAG(
    "housekeeping",
    description="Retention of feedback and files",
    doc_md=DOC,
    schedule="30 1 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=retried(timedelta(minutes=5)),
    params=params.changes("housekeep.delete=false"),
    tags=["flywheel", "housekeeping"],
    on_failure_callback=note_failure,
) as dag:
    stage("housekeep", execution_timeout=timedelta(hours=6))
