"""What operators change by hand, from Airflow: promote, retire, pause, resume, forget. Each run leaves an entry in the audit log."""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, Param

from dags.launch import note_failure, retried, stage

DOC = """
### By hand, with a name and a reason

| verb | needs | what comes of it |
|---|---|---|
| promote | version | it is the champion at once, without a trial; a rollout that goes on is ended |
| retire | version | it is never served again, and housekeeping may delete its files |
| pause, resume | | no run of `flywheel` and `feedback` begins, or they do again; what runs goes on |
| forget | person or record | out of everything later; the proof is this run's output |

To go back quickly, trigger `rollback` instead: it needs nothing. The audit log (`flywheel events`) has who asked and why.
**Red**: the last line of the log says what is wrong; nothing was changed.
"""

with DAG(
    "operate",
    description="Promote, retire, pause, resume, forget by hand",
    doc_md=DOC,
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    default_args=retried(execution_timeout=timedelta(minutes=10)),
    params={
        "operate.verb": Param(
            "pause", enum=["promote", "retire", "pause", "resume", "forget"], title="What", description="The table above says what each does"
        ),
        "operate.reason": Param("", type="string", minLength=1, title="Why", description="Goes into the audit log"),
        "operate.version": Param(None, type=["null", "integer"], minimum=1, title="Version", description="To promote or retire"),
        "operate.user": Param(None, type=["null", "string"], title="Person", description="To forget: as answers and feedback name them"),
        "operate.record": Param(None, type=["null", "string"], title="Record", description="To forget: the id or key of one piece of feedback"),
    },
    tags=["flywheel", "serving"],
    on_failure_callback=note_failure,
) as dag:
    stage("operate")
