"""Label Studio: pull what people decided and push what waits for them, every ten minutes. Off where none is set up."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from dags.launch import note_failure, retried, stage
from flywheel.settings import settings

DOC = """
### People's review

```text
 curation's doubts ─▶ review ─▶ Label Studio ─▶ people
 curation ◀────────── review ◀──────────────────────┘
```

`review` pulls from Label Studio what people decided since the last time, then pushes what curation is in doubt about. Each is told in
its log. Webhooks bring decisions in sooner; this makes good what they lost.

**`review` skipped**: no Label Studio is set up. **`review` red**: its last line says what is wrong there: it is away, its token is not
accepted, or the labeling config was changed so that it can no longer be read. Nothing is lost: mend it and clear the task.
"""

with DAG(
    "review",
    description="Doubtful records to people, and back",
    doc_md=DOC,
    schedule=timedelta(minutes=10) if settings().label_studio_url else None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=retried(timedelta(minutes=1)),
    tags=["flywheel", "feedback"],
    on_failure_callback=note_failure,
) as dag:
    stage("review", execution_timeout=timedelta(hours=1))
