"""Watch for sealed feedback, curate it, and publish `feedback_ready` when there is enough for a turn."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from dags.assets import FEEDBACK_READY
from dags.launch import note_failure, retried, stage
from dags.launch.sensor import SegmentSensor
from flywheel.settings import settings

DOC = """
### From feedback to the next turn

```text
 people ─▶ serving ─▶ sealed files ─▶ wait_for_feedback ─▶ curate ─▶ feedback_ready ─▶ flywheel
                                                             └─▶ doubtful records ─▶ review
```

`wait_for_feedback` waits (in the triggerer, it holds no slot) for sealed files in the store's `feedback/segments`.
`curate` claims what they hold as one batch and publishes the asset `feedback_ready`, which starts `flywheel`.

**`curate` skipped**: there is too little for a turn yet, or people still write; its log says what is missing. Nothing is lost, it
is counted again with the next feedback, or when the time its log names has come. **`curate` red**: mend what its last line says and clear it; it takes up the same batch.
"""

with DAG(
    "feedback",
    description="People's corrections become training data",
    doc_md=DOC,
    schedule="@continuous",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=retried(),
    tags=["flywheel", "feedback"],
    on_failure_callback=note_failure,
) as dag:
    wait = SegmentSensor(task_id="wait_for_feedback", store_uri=settings().store, queue=settings().feedback_queue)
    wait >> stage("curate", outlets=[FEEDBACK_READY], execution_timeout=timedelta(hours=1))
