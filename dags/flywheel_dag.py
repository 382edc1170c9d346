"""The nightly turn: collect, clean, tokenize, train beside making the data set a version, evaluate, gate, register, ask, roll out, sum up.

Runs every night, when `feedback` publishes a batch, or by hand.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, AssetOrTimeSchedule, CronDataIntervalTimetable, TaskGroup

from dags.assets import CHAMPION, DATASET, FEEDBACK_READY, MODEL_VERSION, RECORDS
from dags.launch import explain, note_failure, params, retried, stage
from dags.launch.approval import PromotionApproval
from dags.launch.telling import summed_up
from flywheel.settings import settings

DOC = f"""
### One turn of the flywheel
{explain.PICTURE}
Every task runs `python -m tasks.<stage>` and leaves a manifest in the store; what has not changed is not done again. The run's note has
the verdict, and *The whole turn* at `summary` the page about it.

**When a task is red**, the last line of its log says where, what and how to mend it.
{explain.MEND}
**`train` skipped**: too little is new, or the budget is spent. **`rollout` skipped** is a result, not a fault: its log has the gate's reason.

**`approve`** waits under *Required actions* when the policy asks for a person (`gate.approval`: never, close, always); it passes at
once when it does not. No holds the version: it stays registered.

**A backfilled night** rebuilds that night's data, trains and registers; it is rolled out only with `rollout: yes`.
"""

with DAG(
    "flywheel",
    description="Feedback in, better model out",
    doc_md=DOC,
    schedule=AssetOrTimeSchedule(timetable=CronDataIntervalTimetable(settings().nightly, timezone="UTC"), assets=[FEEDBACK_READY]),
    start_date=datetime.fromisoformat(settings().first_night).replace(tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=settings().stop_hours + settings().approval_hours),
    default_args=retried(execution_timeout=timedelta(hours=6)),
    params=params.turn(),
    tags=["flywheel", "training"],
    on_failure_callback=note_failure,
) as dag:
    with TaskGroup("data", prefix_group_id=False, tooltip="What is learned from"):
        ingest, clean, tokenize, dataset = stage("ingest", outlets=[RECORDS]), stage("clean"), stage("tokenize"), stage("dataset", outlets=[DATASET])
    with TaskGroup("training", prefix_group_id=False, tooltip="The challenger"):
        # one at a time, however many nights are backfilled: one machine, or one pool of GPUs
        train, parity = stage("train", max_active_tis_per_dag=1), stage("parity", max_active_tis_per_dag=1)
    with TaskGroup("judging", prefix_group_id=False, tooltip="Is it better?"):
        evaluate, gate = stage("evaluate", max_active_tis_per_dag=1), stage("gate")
    with TaskGroup("release", prefix_group_id=False, tooltip="To the people"):
        register, rollout = stage("register", outlets=[MODEL_VERSION]), stage("rollout", outlets=[CHAMPION])
        approve = PromotionApproval(task_id="approve", execution_timeout=None)
    ingest >> clean >> tokenize >> train >> evaluate >> gate >> register >> approve >> rollout
    tokenize >> dataset >> register
    train >> parity >> gate
    # a teardown runs whatever became of the others, and does not decide how the run ended
    [rollout, dataset] >> stage("summary", on_success_callback=summed_up).as_teardown()
