"""Try settings of `train` against each other: a mapped task a combination, then the best of them. By hand only."""

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow.sdk import DAG, TriggerRule, task, task_group

from dags.launch import note_failure, params, retried, stage, tell_failure
from flywheel.settings import REPOSITORY, settings

DOC = """
### Which settings are best

`ingest → clean → tokenize → trials → best`. The config's `search` section has the grid and the budget; `trials` has a mapped task for each
combination. All learn from the same examples, and are judged on groups of the training data that none of them saw. The questions of
the gate are in neither.

`best` says what to change; trigger `flywheel` with those lines under *Changes*. Nothing is registered or rolled out here.

**A red trial** is left out. One whose training went wrong is green: that is its result.
"""
AT_A_TIME = 1 if settings().launcher == "local" else 8

with DAG(
    "search",
    description="The best settings of training, by trial",
    doc_md=DOC,
    schedule=None,
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=24),
    default_args=retried(execution_timeout=timedelta(hours=6)),
    params={**params.config(), **params.changes("search.trials=4")},
    tags=["flywheel", "training"],
    on_failure_callback=note_failure,
) as dag:

    @task(doc_md="Counts the combinations of the grid.", on_failure_callback=tell_failure)
    def combinations(params: dict[str, Any] | None = None) -> list[int]:
        """The number of each trial; Airflow passes the params."""
        from flywheel import config

        assert params is not None
        uri = params["config"] or settings().config
        conf = config.load(uri if "://" in uri else str(REPOSITORY / uri), params["set"] or ())  # as the stages read it, which run there
        return list(range(len(conf.search.combinations(conf.seed))))

    @task_group
    def trials(number: int) -> None:
        """One combination: its map index is its number."""
        stage("trial", max_active_tis_per_dagrun=AT_A_TIME)

    ingest, clean, tokenize, best = stage("ingest"), stage("clean"), stage("tokenize"), stage("best", trigger_rule=TriggerRule.ALL_DONE)
    numbers = combinations()
    ingest >> clean >> tokenize >> numbers
    trials.expand(number=numbers) >> best
