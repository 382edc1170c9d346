"""Every ten minutes, look for what nobody noticed."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG

from dags.launch import note_failure, retried, tell_failure
from dags.launch.watching import Watch

DOC = """
### What nobody noticed

```text
 turns that run too long ─┐
 stages that say nothing ─┤                ┌─▶ one message each (notices.yaml)
 nights without a run ────┼─▶  watch  ─────┤
 feedback that waits ─────┤                └─▶ a turn, for feedback that none would learn
 open questions ──────────┘
```

Its log has a line for each finding; what was told once is not told again. It also sends what waited for the morning, or for a channel that was
away. **Red**: Airflow's API, the database or the store is away, or `notices.yaml` is wrong; mend what its last line says. A missed look is made up
for by the next one.
"""

with DAG(
    "watch",
    description="Late turns, hanging stages, missed nights, queues, open questions",
    doc_md=DOC,
    schedule=timedelta(minutes=10),
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(minutes=30),
    default_args=retried(timedelta(minutes=1), execution_timeout=timedelta(minutes=5)),
    tags=["flywheel", "housekeeping"],
    on_failure_callback=note_failure,
) as dag:
    Watch(task_id="watch", doc_md="Looks once, and tells.", on_failure_callback=tell_failure)
