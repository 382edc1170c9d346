"""What operators change from Airflow, on a whole stack: each DAG run does what it says and leaves its entry in the audit log.

pytest -m slow tests/e2e/test_operate.py        (ten minutes)
"""

from __future__ import annotations

import json
import time
import uuid
from datetime import UTC, datetime, timedelta

import httpx
import pytest
import sqlalchemy as sa

from flywheel import ledger, manifest, registry
from flywheel.laptop import postgres
from flywheel.settings import settings

pytestmark = pytest.mark.slow


def last():
    """The newest entry of the audit log."""
    found = ledger.list_events(1)[0]
    return found["action"], found["actor"], found["detail"]


@pytest.fixture(scope="module")
def versions(laptop, airflow):
    """Two versions that two turns have made; no rollout, so that what is served hangs on the operator alone."""
    for seed in (1, 2):
        laptop.flywheel("turn", "--rollout", "no", "--set", f"seed={seed}")
    found = [version.version for version in registry.versions()]
    assert sorted(found) == [1, 2]
    return 1, 2


def served() -> str:
    return str(httpx.get(f"{settings().serving_url}/readyz", timeout=30).json()["model_version"])


def until_served(version: int) -> None:
    until = time.monotonic() + 120
    while served() != str(version):
        assert time.monotonic() < until, served()
        time.sleep(0.5)


def test_promote_rollback_and_retire_are_served_within_seconds_and_audited(versions, run):
    one, two = versions
    for version in (one, two):
        assert run("operate", {"operate.verb": "promote", "operate.version": version, "operate.reason": f"try {version}"})[0] == "success"
        action, actor, detail = last()
        assert (action, detail["version"], detail["reason"]) == ("promote", version, f"by hand: try {version}") and actor
        until_served(version)
    assert run("rollback")[0] == "success"
    action, actor, detail = last()
    assert (action, detail["version"], detail["before"], detail["reason"]) == ("promote", one, two, "rollback: by hand") and actor
    until_served(one)
    before = len(ledger.list_events(1000))
    state, failed = run("operate", {"operate.verb": "retire", "operate.version": one, "operate.reason": "it is served"})
    assert state == "failed" and registry.get(one).retired == "" and len(ledger.list_events(1000)) == before, failed
    assert run("operate", {"operate.verb": "retire", "operate.version": two, "operate.reason": "it lies"})[0] == "success"
    assert last()[0] == "retire" and registry.get(two).retired == "it lies"
    assert run("operate", {"operate.verb": "promote", "operate.version": two, "operate.reason": "after all"})[0] == "failed"
    assert registry.alias("champion") == one


def test_pause_and_resume_hold_the_wheel_and_let_it_go(airflow, run):
    for dag in ("flywheel", "feedback"):
        airflow.unpause(dag)
    for verb, paused in (("pause", True), ("resume", False)):
        assert run("operate", {"operate.verb": verb, "operate.reason": "we look into it"})[0] == "success"
        assert [airflow.dag(dag)["is_paused"] for dag in ("flywheel", "feedback", "operate")] == [paused, paused, False]
        action, actor, detail = last()
        assert (action, detail["dags"], detail["reason"]) == (verb, ["flywheel", "feedback"], "we look into it") and actor


def test_forget_leaves_a_proof_and_nothing_of_the_person(run):
    with httpx.Client(base_url=settings().serving_url, timeout=60) as client:
        answer = client.post("/v1/generate", json={"instruction": "Who am I?", "max_new_tokens": 4, "user": "Ada"}).json()["answer_id"]
        said = {"answer_id": answer, "idempotency_key": str(uuid.uuid4()), "user": "Ada", "correction": "Ada Lovelace", "consent": True}
        assert client.post("/v1/feedback", json=said).status_code == 201
    state, run_id = run("operate", {"operate.verb": "forget", "operate.user": "Ada", "operate.reason": "she asked"})
    assert state == "success" and last()[0] == "forget" and last()[2]["reason"] == "she asked"
    proof = manifest.read_for(manifest.run_dir("operate", run_id, settings().store), "operate").outputs["proof"]
    assert len(json.loads(proof.fetch(settings().home / "cache").read_text())["records"]) == 1
    with ledger.transaction() as db:
        assert not db.execute(sa.text("select 1 from feedback where body::text like '%Lovelace%' or \"user\" = 'Ada'")).first()


def test_costs_are_told(laptop, versions):
    told = json.loads(laptop.flywheel("costs", "--json").stdout)
    (week,) = told["weeks"].values()
    assert week["train"]["cpu_seconds"] > 0 and set(told["versions"]) == {"1", "2"}


def test_housekeeping_makes_airflow_forget_old_runs_and_leaves_the_store(airflow, versions, run):
    runs = airflow.runs("flywheel")
    turns = [r["dag_run_id"] for r in runs]
    age = datetime.now(UTC) - min(datetime.fromisoformat(r["start_date"]) for r in runs)
    state, run_id = run("housekeeping", {"set": [f"housekeep.database_days={0.9 * age / timedelta(days=1)}"]})  # the first turn is older than that
    assert state == "success", airflow.tasks("housekeeping", run_id)
    assert len(airflow.runs("flywheel")) < len(turns)  # the last of a DAG is kept
    with postgres.connect(sa.make_url(settings().database_url), "airflow") as db:
        archived = "select count(*) from information_schema.tables where table_name like '%airflow_deleted%'"
        assert db.execute(archived).fetchone() == (0,)
    for turn in turns:
        assert manifest.read_for(manifest.run_dir("flywheel", turn, settings().store), "register").metrics["version"] in versions
    assert run("operate", {"operate.verb": "pause", "operate.reason": "Airflow works on"})[0] == "success"
