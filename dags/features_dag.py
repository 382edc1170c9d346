"""Bring the feature store up to date: offline rows, definitions, online values, and the nightly look for skew."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from dags.launch import note_failure, params, retried, stage
from flywheel.settings import settings

DOC = """
### Features, the same in training and serving

```text
 ledger ─▶ features ─▶ offline rows ─▶ online values ─▶ serving
                └─▶ reads of the last day, compared ─▶ skew
```

`features` writes the offline rows from the ledger, applies the definitions to the registry, materializes the online values, joins the judged
answers with what was known when they were given, and compares every read that serving logged in the last day with that join.

**Skipped**: features are off (`FLYWHEEL_FEATURES_URL`). **Red with exit code 3**: skew; its log names the features.
"""

with DAG(
    "features",
    description="What is known of users, raters and questions",
    doc_md=DOC,
    schedule="@hourly" if settings().features_url else None,  # off, it costs nothing
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=2),
    default_args=retried(execution_timeout=timedelta(hours=1)),
    params=params.config(),
    tags=["flywheel", "context"],
    on_failure_callback=note_failure,
) as dag:
    stage("features")
