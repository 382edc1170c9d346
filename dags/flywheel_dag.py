"""The nightly turn: collect, clean, tokenize, train beside making the data set a version, evaluate, gate, register, ask, roll out.

Runs every night, when `feedback` publishes a batch, or by hand.
"""

from datetime import UTC, datetime, timedelta

from airflow.sdk import DAG, AssetOrTimeSchedule, CronDataIntervalTimetable, Param

from dags.assets import FEEDBACK_READY, RECORDS
from dags.launch import note_failure, stage
from dags.launch.approval import PromotionApproval
from flywheel.settings import settings

DOC = """
### One turn of the flywheel

`ingest → clean → tokenize → train → evaluate → gate → register → approve → rollout`, with `dataset` beside `train` and `parity` beside `evaluate`

Every task runs `python -m tasks.<stage>` and leaves a manifest in the store; what has not changed is not done again.

**When a task is red**, the last line of its log says where, what and how to mend it. Exit code 2: the config; 3: the data;
both are not retried. 75 and 143 are retried by themselves. After mending, clear the task: it goes on from its last checkpoint.

**`rollout` skipped** is a result, not a fault: its log has the gate's reason.

**`approve`** waits under *Required actions* when the policy asks for a person (`gate.approval`: never, close, always); it passes at
once when it does not. No, or no answer in time, holds the version: it stays registered.

**`parity`** red: the server would not be the model that was trained, and nothing is rolled out; its log names every difference.

**`dataset`** makes this run's data a version: its report is in the run's `dataset` folder and in MLflow. `tokenize` has looked the data
over before: what `tokenize.validation.stop` names ends the turn there.

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
    dagrun_timeout=timedelta(hours=12),
    default_args={"owner": "ml-platform", "retries": 2, "retry_delay": timedelta(seconds=15), "execution_timeout": timedelta(hours=6)},
    params={
        "config": Param("", type="string", title="Config", description="A path or URL of a YAML file; empty: the installation's own"),
        "set": Param([], type="array", items={"type": "string"}, title="Changes", description="One `section.key=value` a line, e.g. train.epochs=2"),
        "rollout": Param("auto", enum=["auto", "yes", "no"], title="Roll out", description="auto: what the gate promotes, except in a backfill"),
        "approval": Param("config", enum=["config", "always"], title="Ask a person", description="config: as gate.approval says"),
    },
    tags=["flywheel", "training"],
    on_failure_callback=note_failure,
) as dag:
    ingest, clean, tokenize, train = stage("ingest", outlets=[RECORDS]), stage("clean"), stage("tokenize"), stage("train")
    dataset, parity, evaluate, gate, register, rollout = map(stage, ("dataset", "parity", "evaluate", "gate", "register", "rollout"))
    approve = PromotionApproval(task_id="approve", execution_timeout=None)
    ingest >> clean >> tokenize >> train >> evaluate >> gate >> register >> approve >> rollout
    tokenize >> dataset >> register
    train >> parity >> approve
