"""Look whether the data or the config have changed, and start a turn when they have. Off until FLYWHEEL_CHANGES says when."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, CronTriggerTimetable

from dags.launch import note_failure, params, retried, stage
from flywheel.settings import settings

DOC = """
### New data, or another config

```text
 sources ─┐
          ├─▶ changes ─▶ a turn of flywheel
 config ──┘
```

`changes` compares what every source holds now, and the config, with what the newest ten turns were made of (their manifests), and starts a turn
when none was made of both. While a turn is on its way, or `flywheel` is paused, nothing is started; the next look decides.

Off unless `FLYWHEEL_CHANGES` has a schedule (cron, UTC). A source that says something else each time it is read starts a turn each time: leave
it to the night. **Skipped** is the usual result: nothing has changed. **Red**: a source does not answer; clear it, or wait for the next look.
"""

with DAG(
    "changes",
    description="New data or another config starts a turn",
    doc_md=DOC,
    schedule=CronTriggerTimetable(settings().changes, timezone="UTC") if settings().changes else None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=2),
    default_args=retried(execution_timeout=timedelta(hours=1)),
    params=params.config(),
    tags=["flywheel", "training"],
    on_failure_callback=note_failure,
) as dag:
    stage("changes")
