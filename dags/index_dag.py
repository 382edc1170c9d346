"""Keep the index that retrieval searches as the documents are: every night, after each `ingest`, or by hand."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, AssetOrTimeSchedule, CronDataIntervalTimetable

from dags.assets import RECORDS
from dags.launch import note_failure, params, retried, stage
from flywheel.settings import settings

DOC = """
### Documents into the index

```text
 documents ─┐
            ├─▶ index ─▶ passages ─▶ answers with sources
 records ───┘
```

`index` reads what the config names under `index.documents`, embeds only what is new, deletes what is gone, and shows all of it in one
transaction. Searches go on meanwhile, on the version before.

**Skipped**: the config names no documents. **Red**: mend what the last line of its log says and clear it; what was embedded is kept.
"""

with DAG(
    "index",
    description="Documents become passages that answers are grounded in",
    doc_md=DOC,
    schedule=AssetOrTimeSchedule(timetable=CronDataIntervalTimetable(settings().nightly, timezone="UTC"), assets=[RECORDS]),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=12),
    default_args=retried(execution_timeout=timedelta(hours=6)),
    params={**params.config(), **params.changes("index.characters=600")},
    tags=["flywheel", "context"],
    on_failure_callback=note_failure,
) as dag:
    stage("index")
