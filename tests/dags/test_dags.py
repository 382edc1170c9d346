"""In Airflow's own environment: the DAG files, their forms and links, and the arguments of a stage."""

import importlib
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest
from airflow.sdk.api.datamodels._generated import DagRunType

from dags.launch import base
from flywheel.settings import REPOSITORY, settings
from tests.dags.runs import context, write_manifest

IMPORT = """
import sys, time
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "mlflow", "transformers", "daft", "pandas", "pyarrow", "numpy"):
            raise ImportError("blocked: " + name)
sys.meta_path.insert(0, Blocked())
import airflow.sdk
from airflow.sdk import DAG, AssetOrTimeSchedule, BaseOperator, CronDataIntervalTimetable, Param
before = time.process_time()
import dags.flywheel_dag, dags.feedback_dag, dags.housekeeping_dag, dags.review_dag, dags.rollback_dag, dags.index_dag, dags.features_dag
import dags.operate_dag, dags.watch_dag, dags.search_dag, dags.changes_dag
print(time.process_time() - before)
"""


@pytest.mark.parametrize("launcher", ["local", "kubernetes"])
def test_dag_files_need_nothing_of_ml_and_are_the_same_for_both_launchers(launcher, tmp_path):
    code = IMPORT + "print([t.task_id for t in dags.flywheel_dag.dag.topological_sort()])"
    environment = {
        **os.environ,
        "FLYWHEEL_LAUNCHER": launcher,
        "FLYWHEEL_HOME": str(tmp_path),
        "PYTHONPATH": str(REPOSITORY),
        "AIRFLOW_HOME": str(tmp_path / "airflow"),
    }
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr[-3000:]
    seconds, ids = done.stdout.strip().splitlines()[-2:]
    assert ids == "['ingest', 'clean', 'tokenize', 'dataset', 'train', 'parity', 'evaluate', 'gate', 'register', 'approve', 'rollout', 'summary']"
    print(f"{launcher}: {float(seconds):.2f} CPU-seconds beyond airflow")
    if launcher == "local":
        assert float(seconds) < 2.0  # CPU-seconds, not wall time


@pytest.mark.parametrize("launcher", ["local", "kubernetes"])
def test_what_each_task_would_import_is_there_before_its_process_is_forked(launcher, tmp_path):
    names = "airflow.providers.cncf.kubernetes.operators.pod", "airflow.providers.cncf.kubernetes.triggers.pod", "kubernetes.client"
    code = f"import sys, airflow.settings; airflow.settings.initialize(); print([name in sys.modules for name in {names}], 'dags' in sys.modules)"
    environment = {**os.environ, "FLYWHEEL_LAUNCHER": launcher, "FLYWHEEL_HOME": str(tmp_path), "PYTHONPATH": str(REPOSITORY), "AIRFLOW_HOME": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1] == f"{[launcher == 'kubernetes'] * 3} False"


def test_every_dag_can_be_read_and_explains_itself(home):
    from dags import (
        changes_dag,
        features_dag,
        feedback_dag,
        flywheel_dag,
        housekeeping_dag,
        index_dag,
        operate_dag,
        review_dag,
        rollback_dag,
        search_dag,
        watch_dag,
    )

    modules = (flywheel_dag, feedback_dag, housekeeping_dag, review_dag, rollback_dag, index_dag, features_dag, operate_dag, search_dag, watch_dag, changes_dag)
    for dag in (module.dag for module in modules):
        assert dag.doc_md and dag.tags and dag.max_active_runs == 1
        assert dag.on_failure_callback
        assert all(task.owner == "ml-platform" and task.retries == 2 for task in dag.tasks)
        assert all(task.doc_md or task.task_id == "wait_for_feedback" for task in dag.tasks)
        for name in dag.params:
            param = dag.params.get_param(name)
            assert param.schema["title"]
            if param.value in (None, "", []) and name != "operate.reason":  # Airflow's form refuses to trigger while such a field is empty
                assert "null" in param.schema["type"], f"{dag.dag_id}: {name}"


def test_the_form_changes_the_config_and_refuses_what_makes_no_sense(home):
    from airflow.sdk.exceptions import ParamValidationError

    from dags.launch import params

    form = params.turn()
    untouched = {name: param.value for name, param in form.items()}
    assert params.assignments(untouched) == []
    asked = {**untouched, "sources": ["wiki"], "base_model": "s3://b/m", "method": "qlora", "budget": 2.5, "approval": "close", "set": ["train.epochs=2"]}
    assert params.assignments(asked) == [
        'ingest.only=["wiki"]', 'model.base="s3://b/m"', 'train.method="qlora"', "train.weekly_money=2.5", 'gate.approval="close"', "train.epochs=2",
    ]  # fmt: skip
    for name, wrong in {"method": "magic", "budget": -1, "approval": "never", "base_model": "a b", "set": ["nonsense"], "rollout": "maybe"}.items():
        with pytest.raises(ParamValidationError):
            form[name].resolve(wrong)


def test_every_param_changes_a_setting_that_there_is(home):
    from dags.launch import params
    from flywheel import config

    chosen = {"sources": ["docs"], "base_model": "x", "method": "lora", "objective": "sft", "budget": 1, "approval": "always"}
    assert set(chosen) == set(params.SETS)
    conf = config.load(str(REPOSITORY / "config" / "flywheel.yaml"), params.assignments(chosen))
    assert conf.model.base == "x" and conf.gate.approval == "always" and conf.train.weekly_money == 1


def test_each_task_links_to_what_it_made(home):
    from dags import feedback_dag, flywheel_dag

    run = SimpleNamespace(dag_id="flywheel", run_id="manual__2026-01-01T00:00:00+00:00", task_id="register")
    links = {link.name: link.get_link(None, ti_key=run) for link in flywheel_dag.dag.get_task("register").operator_extra_links}
    assert links["Model version"] == f"{settings().airflow_url}/flywheel/flywheel/manual__2026-01-01T00%3A00%3A00%2B00%3A00/version"
    assert set(links) == {"Model version", "MLflow run", "Data card", "Manifest"}
    for task in flywheel_dag.dag.tasks:
        keys = [link.xcom_key for link in task.operator_extra_links]
        assert keys and len(keys) == len({*keys})
    assert [link.name for link in feedback_dag.dag.get_task("curate").operator_extra_links] == ["Curation report", "Manifest"]


def test_a_pod_is_shown_where_the_setting_says(home, monkeypatch):
    from dags.launch.links import PodLink

    ti = SimpleNamespace(task_id="train", xcom_pull=lambda task_ids, key: {"pod_name": "flywheel-train-x", "pod_namespace": "flywheel"}[key])
    assert PodLink().get_link(None, ti_key=ti) == ""
    monkeypatch.setenv("FLYWHEEL_POD_URL", "https://h.example.org/{namespace}/{pod}")
    settings.cache_clear()
    assert PodLink().get_link(None, ti_key=ti) == "https://h.example.org/flywheel/flywheel-train-x"


def test_an_asset_event_tells_what_was_measured(home, monkeypatch):
    write_manifest(home, outputs={"records": {"uri": "r", "sha256": "0", "bytes": 1, "rows": 7}})
    events = {"asset": SimpleNamespace(extra=None)}
    base.finished("ingest", {**context(), "task": SimpleNamespace(outlets=["asset"]), "outlet_events": events})
    assert events["asset"].extra == {"records": 3, "rows": 7, "run": "runs/flywheel/manual__2026-01-01T00_00_00_00_00", "cached": False}


def test_the_summary_does_not_decide_how_a_run_ended(home):
    from dags import flywheel_dag

    summary = flywheel_dag.dag.get_task("summary")
    assert summary.is_teardown and not summary.on_failure_fail_dagrun and not summary.downstream_task_ids
    assert flywheel_dag.dag.get_task("train").max_active_tis_per_dag == 1  # of all runs, backfilled ones too


def test_review_has_a_schedule_only_where_a_label_studio_is_set_up(home, monkeypatch):
    from dags import review_dag

    for url in ("", "http://127.0.0.1:18082"):
        monkeypatch.setenv("FLYWHEEL_LABEL_STUDIO_URL", url)
        settings.cache_clear()
        found = importlib.reload(review_dag).dag
        assert bool(found.schedule) is bool(url)
        assert [task.task_id for task in found.tasks] == ["review"]


def test_changes_are_looked_for_only_where_a_schedule_is_set(home, monkeypatch):
    from dags import changes_dag

    for cron in ("", "0 * * * *"):
        monkeypatch.setenv("FLYWHEEL_CHANGES", cron)
        settings.cache_clear()
        assert bool(importlib.reload(changes_dag).dag.schedule) is bool(cron)


def test_arguments_are_the_contract(home):
    found = base.arguments("train", context(set=["train.epochs=2"]))
    assert found[:4] == ["--config", settings().config, "--run-dir", f"{home}/store/runs/flywheel/manual__2026-01-01T00_00_00_00_00"]
    assert found[-2:] == ["--set", "train.epochs=2"] and 'ingest.interval_end="2026-01-01T00:00:00+00:00"' in found
    night = context()
    night["dag_run"].run_type = DagRunType.BACKFILL  # as a task is told of it
    assert "rollout.enabled=false" in base.arguments("train", night)
    night["params"]["rollout"] = "yes"
    assert "rollout.enabled=false" not in base.arguments("train", night)


def test_a_mapped_task_has_a_folder_and_a_number_of_its_own(home):
    third = context()
    third["ti"].map_index = 2
    found = base.arguments("trial", third)
    assert found[3].endswith("/manual__2026-01-01T00_00_00_00_00/trials/2") and found[-2:] == ["--set", "search.trial=2"]
    alone = context()
    alone["ti"].map_index = -1
    assert "trials" not in str(base.arguments("train", alone)) and "search.trial" not in str(base.arguments("train", alone))


def test_a_search_maps_a_task_to_each_combination(home, tmp_path):
    from dags.search_dag import dag

    assert set(dag.task_dict) == {"ingest", "clean", "tokenize", "combinations", "trials.trial", "best"}
    assert dag.get_task("trials.trial").upstream_task_ids == {"combinations"} and dag.get_task("best").upstream_task_ids == {"trials.trial"}
    changes = ["search.grid={rank: [4, 8, 16], beta: [0.1, 0.2]}", "search.trials=5"]
    assert dag.get_task("combinations").python_callable({"config": "config/search.yaml", "set": changes}) == [0, 1, 2, 3, 4]


def test_only_the_rollout_is_told_who_approved(home):
    assert base.arguments("rollout", context(person='Ada "the" Quill', set=["rollout.approved_by=me"]))[-1] == 'rollout.approved_by="Ada \\"the\\" Quill"'
    assert not any("approved_by" in a for a in base.arguments("gate", context(person="Ada")))
    assert base.arguments("rollout", context(set=["rollout.approved_by=me"]))[-1] == 'rollout.approved_by=""'
    assert 'gate.approval="always"' in base.arguments("gate", context(approval="always"))


def test_who_asks_for_something_is_who_airflow_says(home):
    asked = context(**{"operate.verb": "retire", "operate.version": 3, "operate.reason": 'it "lies": 3'}, set=["operate.actor=me"])
    asked["dag_run"].triggering_user_name = "Ada"
    found = base.arguments("operate", asked)
    assert [a for a in found if a.startswith("operate.")] == [
        'operate.verb="retire"', "operate.version=3", 'operate.reason="it \\"lies\\": 3"', "operate.actor=me", 'operate.actor="Ada"',
    ]  # fmt: skip
    assert base.arguments("rollback", context())[-1] == 'rollback.actor=""'
