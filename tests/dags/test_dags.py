"""In Airflow's own environment: the DAG files, the local operator, the sensor."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, TaskAwaitingInput

from dags.launch import base, sensor, telling
from dags.launch.approval import PromotionApproval
from dags.launch.local import GRACE_SECONDS, LocalStage
from flywheel.settings import REPOSITORY, settings

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
import dags.operate_dag, dags.watch_dag, dags.search_dag
print(time.process_time() - before)
"""


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


def context(**params):
    run = SimpleNamespace(
        dag_id="flywheel", run_id="manual__2026-01-01T00:00:00+00:00", run_type="manual", data_interval_end=None, run_after=datetime(2026, 1, 1, tzinfo=UTC)
    )
    return {"dag_run": run, "params": params, "ti": SimpleNamespace(xcom_pull=lambda task_ids: params.get("person"))}


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


def test_every_dag_can_be_read_and_explains_itself(home):
    from dags import features_dag, feedback_dag, flywheel_dag, housekeeping_dag, index_dag, operate_dag, review_dag, rollback_dag, search_dag, watch_dag

    modules = (flywheel_dag, feedback_dag, housekeeping_dag, review_dag, rollback_dag, index_dag, features_dag, operate_dag, search_dag, watch_dag)
    for dag in (module.dag for module in modules):
        assert dag.doc_md and dag.tags and dag.max_active_runs == 1
        assert dag.on_failure_callback
        assert all(task.owner == "ml-platform" and task.retries == 2 for task in dag.tasks)
        assert all(task.doc_md or task.task_id == "wait_for_feedback" for task in dag.tasks)
        assert all(dag.params.get_param(name).schema["title"] for name in dag.params)


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


def test_arguments_are_the_contract(home):
    found = base.arguments("train", context(set=["train.epochs=2"]))
    assert found[:4] == ["--config", settings().config, "--run-dir", f"{home}/store/runs/flywheel/manual__2026-01-01T00_00_00_00_00"]
    assert found[-2:] == ["--set", "train.epochs=2"] and 'ingest.interval_end="2026-01-01T00:00:00+00:00"' in found
    night = context()
    night["dag_run"].run_type = "backfill"
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


@pytest.fixture
def asked(home, monkeypatch):
    """The approval task of a run whose gate and register are done; gives the operator and what it put before people."""
    from airflow.providers.standard.operators import hitl

    seen = {}
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **detail: seen.update(detail))
    operator = PromotionApproval(task_id="approve")
    ti = SimpleNamespace(id="x", xcom_pull=lambda task_ids: None)

    def execute(approval, **params):
        verdict = home / "store" / "verdict.json"
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.write_text(json.dumps({"paragraph": "It is better."}))
        outputs = {"verdict": {"uri": "verdict.json", "sha256": "0", "bytes": 1}}
        write_manifest(home, "gate", stage="gate", metrics={"approval": approval}, outputs=outputs)
        write_manifest(home, "register", stage="register", metrics={"version": 4, "page": "http://127.0.0.1/report"})
        return operator.execute({**context(**params), "task_instance": ti, "ti": ti})

    return execute, operator, seen


def test_nobody_is_asked_when_the_policy_does_not_want_it(asked):
    execute, _, seen = asked
    assert execute("not needed") is None and execute("needed", rollout="no") is None and not seen


def test_a_person_sees_the_verdict_and_the_report_and_is_recorded(asked, monkeypatch):
    execute, operator, seen = asked
    told = []
    monkeypatch.setattr(telling, "asked", lambda context, version, paragraph: told.append((version, paragraph)))
    with pytest.raises(TaskAwaitingInput):
        execute("needed")
    assert told == [(4, "It is better.")]
    assert seen["subject"] == "Roll out version 4?" and "It is better." in seen["body"] and "http://127.0.0.1/report" in seen["body"]
    assert seen["defaults"] == ["Reject"]  # no answer in time holds
    yes = {
        "chosen_options": ["Approve"],
        "params_input": {"comment": "fine"},
        "responded_at": datetime.now(UTC),
        "responded_by_user": {"id": "7", "name": "Ada"},
    }
    assert operator.execute_complete(context(), yes) == "Ada"
    assert operator.execute_complete(context(), {**yes, "chosen_options": ["Reject"], "responded_by_user": None}) is None


def test_an_answer_by_a_signed_link_is_its_receivers_and_nobody_else_can_claim_it(asked, monkeypatch):
    from flywheel.notices import approving

    _, operator, _ = asked
    monkeypatch.setenv("FLYWHEEL_LINK_KEY", "k" * 43)  # pragma: allowlist secret
    settings.cache_clear()
    question = approving.Question("flywheel", context()["dag_run"].run_id, "approve", "grace@example.org")
    event = {"chosen_options": ["Approve"], "responded_at": datetime.now(UTC), "responded_by_user": {"id": "1", "name": "airflow-service"}}
    by_link = {**event, "params_input": {"comment": approving.receipt(question, "Approve")}}
    assert operator.execute_complete(context(), by_link) == "grace@example.org"
    for claim in ("grace@example.org", approving.receipt(question, "Reject"), approving.link({"dag": "flywheel", "run": question.run, "task": "approve"}, "x")):
        assert operator.execute_complete(context(), {**event, "params_input": {"comment": claim}}) == "airflow-service"


def test_no_answer_in_time_holds_or_approves_as_the_policy_says(home, monkeypatch):
    assert PromotionApproval(task_id="a").defaults == ["Reject"]
    monkeypatch.setenv("FLYWHEEL_APPROVAL_TIMEOUT", "approve")
    settings.cache_clear()
    operator = PromotionApproval(task_id="b")
    event = {"chosen_options": ["Approve"], "params_input": {}, "responded_at": datetime.now(UTC), "responded_by_user": None}
    assert operator.defaults == ["Approve"] and "FLYWHEEL_APPROVAL_TIMEOUT" in operator.execute_complete(context(), event)


def fake_stage(home, monkeypatch, code):
    """An interpreter that runs this code in the stage's place."""
    script = home / "python"
    (home / "stage.py").write_text(code)
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{home}/stage.py'\n")  # a #! line takes no path with a space
    script.chmod(0o755)
    monkeypatch.setenv("FLYWHEEL_STAGE_PYTHON", str(script))
    settings.cache_clear()
    return LocalStage(stage="ingest", task_id="ingest", retries=0)


def write_manifest(home, name="ingest", **change):
    run = "runs/flywheel/manual__2026-01-01T00_00_00_00_00"
    now = datetime.now(UTC).isoformat()
    body = {
        "schema_version": 1,
        "stage": "ingest",
        "run_dir": run,
        "attempt": 1,
        "cache_key": "k",
        "started": now,
        "ended": now,
        "metrics": {"records": 3},
        **change,
    }
    path = home / "store" / run / name / "manifest.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(body))


def test_local_stage_returns_the_manifests_metrics(home, monkeypatch):
    write_manifest(home)
    assert fake_stage(home, monkeypatch, "print('hello')").execute(context())["metrics"] == {"records": 3}


def test_a_stage_that_ends_well_without_its_manifest_fails(home, monkeypatch):
    with pytest.raises(AirflowException, match="left no manifest"):
        fake_stage(home, monkeypatch, "").execute(context())
    write_manifest(home, run_dir="runs/flywheel/another")
    with pytest.raises(AirflowException, match="another"):
        fake_stage(home, monkeypatch, "").execute(context())
    write_manifest(home, outcome="skipped", reason="nothing to do")
    with pytest.raises(AirflowSkipException, match="nothing to do"):
        fake_stage(home, monkeypatch, "").execute(context())


@pytest.mark.parametrize(("code", "retried"), [(2, False), (3, False), (75, True), (143, True), (1, True)])
def test_exit_codes(home, monkeypatch, code, retried):
    with pytest.raises(AirflowException) as caught:
        fake_stage(home, monkeypatch, f"raise SystemExit({code})").execute(context())
    assert isinstance(caught.value, AirflowFailException) is not retried


def test_a_failure_says_cause_where_and_mend(home, monkeypatch):
    line = json.dumps({"stage": "ingest", "exit_code": 2, "error": "no such file", "where": "ingest.sources", "mend": "Name one."})
    code = f"import os, pathlib\npathlib.Path(os.environ['FLYWHEEL_TERMINATION_LOG']).write_text({line!r})\nraise SystemExit(2)"
    with pytest.raises(AirflowFailException, match=r"ingest\.sources: no such file\. Name one\."):
        fake_stage(home, monkeypatch, code).execute(context())


def test_killing_the_task_ends_the_whole_process_group_in_time(home, monkeypatch):
    import threading

    stubborn = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    operator = fake_stage(home, monkeypatch, stubborn)

    def execute():
        with suppress(AirflowException):
            operator.execute(context())

    thread = threading.Thread(target=execute)
    thread.start()
    time.sleep(3)
    assert operator._process is not None
    operator.on_kill()
    thread.join(10)
    assert GRACE_SECONDS < 5 and not thread.is_alive()  # Airflow's SIGKILL comes 5 s after its SIGTERM
    group = operator._process.pid
    assert not [p for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE and os.getpgid(p.pid) == group]


def test_the_stage_dies_with_its_task(home):
    write_manifest(home)
    code = (
        "import os, sys; from dags.launch.local import _die_with_parent; import subprocess;"
        "p = subprocess.Popen(['sleep', '600'], preexec_fn=_die_with_parent); print(p.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its parent")


def test_fresh_segments(home):
    store = home / "store"

    def put(path, text=""):
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        (store / path).write_text(text)

    assert sensor.fresh_segments(str(store)) == []
    put("feedback/segments/1.jsonl")
    put("feedback/segments/2.jsonl")
    put("feedback/claimed/1.jsonl")
    assert sensor.fresh_segments(str(store)) == ["2.jsonl"]
    put("feedback/waiting.json", json.dumps({"segments": ["1.jsonl", "2.jsonl"], "until": "2999-01-01T00:00:00+00:00"}))
    assert sensor.fresh_segments(str(store)) == []
    put("feedback/segments/3.jsonl")
    assert sensor.fresh_segments(str(store)) == ["2.jsonl", "3.jsonl"]
    put("feedback/waiting.json", json.dumps({"segments": ["2.jsonl", "3.jsonl"], "until": "2020-01-01T00:00:00+00:00"}))
    assert sensor.fresh_segments(str(store)) == ["2.jsonl", "3.jsonl"]


def summed(home, monkeypatch, **metrics):
    """What a run's end tells: its note, and its messages."""
    from flywheel import airflow_api, notices

    notes, told = [], []
    monkeypatch.setattr(airflow_api.AirflowApi, "note", lambda self, dag, run, text: notes.append(text))
    monkeypatch.setattr(notices, "tell", lambda kind, key, facts, links=None, ask=None: told.append((kind, key, facts, links, ask)))
    base_ = {"ended": "held", "why": "no evidence", "money": 0.5, "currency": "USD", "seconds": 60.0, "primary": "log_loss"}
    write_manifest(home, "summary", stage="summary", metrics={**base_, **metrics})
    telling.summed_up(context())
    return notes, told


def test_a_run_ends_with_a_note_and_one_message(home, monkeypatch):
    notes, told = summed(home, monkeypatch, version=4, gain=0.01)
    assert notes == ["**held** · version 4 · +0.0100 log loss · 0.5000 USD\n\nno evidence"]
    ((kind, key, facts, links, _),) = told
    assert (kind, key, facts["gain"]) == ("result", "result flywheel manual__2026-01-01T00:00:00+00:00", 0.01)
    assert links["The whole turn"].endswith("/turn") and "/runs/manual__2026" in links["Run in Airflow"]


def test_a_failed_run_has_its_note_but_no_second_message(home, monkeypatch):
    notes, told = summed(home, monkeypatch, ended="failed", why="train did not finish")
    assert notes == ["**failed** · 0.5000 USD\n\ntrain did not finish"] and told == []


def test_a_failure_is_told_at_once_and_telling_never_fails_a_task(home, monkeypatch, caplog):
    from dags import flywheel_dag
    from flywheel import notices

    told = []
    monkeypatch.setattr(notices, "tell", lambda kind, key, facts, links=None, ask=None: told.append((kind, key, facts["why"])))
    callbacks = flywheel_dag.dag.get_task("train").on_failure_callback
    task = SimpleNamespace(task_id="train", try_number=3)
    for callback in callbacks:
        callback({**context(), "task_instance": task, "exception": AirflowException("out of memory")})
    assert told == [("failure", "failure flywheel manual__2026-01-01T00:00:00+00:00 train 3", "out of memory")]
    monkeypatch.setattr(notices, "tell", lambda *a, **k: 1 / 0)
    telling.failed({**context(), "task_instance": task})
    assert "nobody could be told" in caplog.text
