"""What operators do, on a real MLflow and a real PostgreSQL; Airflow is a table of DAGs."""

import time

import pytest
from typer.testing import CliRunner

from flywheel import config, ledger, operations, registry, spend, stage, store
from flywheel.cli import app
from flywheel.errors import ContractError
from flywheel.manifest import Cost
from flywheel.registry import Desired
from flywheel.settings import REPOSITORY, settings
from tasks import operate


def told(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments)])
    return done.exit_code, " ".join(done.output.split())


@pytest.fixture
def airflow(monkeypatch):
    """The DAGs of an Airflow, and whether each is paused."""
    dags = {"flywheel": False, "feedback": False, "review": True}

    class Api:
        def dag(self, name):
            return {"is_paused": dags[name]} if name in dags else None

        def pause(self, name, *, paused):
            dags[name] = paused

    monkeypatch.setattr(operations, "AirflowApi", Api)
    return dags


def asked(run, *changes):
    """What the DAG `operate` runs, when Ada triggers it."""
    conf = config.load(str(REPOSITORY / "config" / "flywheel.yaml"), [*changes, "operate.actor=Ada"])
    return stage.execute(operate.STAGE, conf, store.join(settings().store, "runs", "operate", run))


def test_promote_and_retire_from_a_terminal_and_from_airflow(register):
    one, two, bad = register("one", "d1"), register("two", "d2", verdict="hold"), register("bad", "d3", verdict="refuse")
    registry.promote(one, "test", "better")
    registry.set_traffic(Desired(challenger=two, stage="canary", share=0.1, lease_until=time.time() + 60))
    code, said = told("retire", two, "--reason", "it is slow")
    assert code == 2 and "this version is served" in said  # to some
    assert told("promote", two, "--reason", "we want it")[0] == 0
    assert (registry.alias("champion"), registry.alias("previous"), registry.desired().live) == (two, one, False)
    assert ledger.list_events(1)[0]["detail"] == {"version": two, "before": one, "reason": "by hand: we want it"}
    assert told("promote", bad, "--reason", "x")[0] == 2 and told("retire", two, "--reason", "x")[0] == 2
    code, said = told("promote", one, "--reason", " ")
    assert code == 2 and "a reason is missing" in said

    assert asked("1", "operate.verb=retire", f"operate.version={one}", "operate.reason=it lies").metrics["version"] == one
    assert (ledger.list_events(1)[0]["actor"], ledger.list_events(1)[0]["action"]) == ("Ada", "retire")
    assert registry.alias("previous") is None and registry.get(one).retired == "it lies"
    with pytest.raises(ContractError, match="it was retired"):
        asked("2", "operate.verb=promote", f"operate.version={one}", "operate.reason=after all")
    with pytest.raises(ContractError, match="it was retired"):
        registry.rollback("test", "x", one)
    assert "retired hold" in told("versions")[1] or "retired" in told("versions")[1]
    events = len(ledger.list_events())
    assert told("retire", one, "--reason", "again")[0] == 0 and len(ledger.list_events()) == events
    assert registry.get(one).signed_text() == registry.get(one).model_copy(update={"retired": ""}).signed_text()


def test_pause_and_resume(database, airflow):
    assert told("pause", "--reason", "an incident") == (0, "paused flywheel, feedback")
    assert airflow == {"flywheel": True, "feedback": True, "review": True}
    assert told("pause", "--reason", "an incident") == (0, "nothing to be paused: it is so already")
    asked("1", "operate.verb=resume", "operate.reason=it is over")
    assert airflow == {"flywheel": False, "feedback": False, "review": True}
    assert (ledger.list_events(1)[0]["actor"], ledger.list_events(1)[0]["action"], ledger.list_events(1)[0]["detail"]["dags"]) == (
        "Ada",
        "resume",
        ["flywheel", "feedback"],
    )
    assert len(ledger.list_events()) == 2
    code, said = told("pause", "--reason", "x", "--dag", "flywheel", "--dag", "nothing")
    assert code == 2 and "nothing: Airflow has no such DAG" in said and not airflow["flywheel"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["operate.reason=x"], "nothing is asked for"),
        (["operate.verb=retire"], "a reason is missing"),
        (["operate.verb=promote", "operate.reason=x"], "no version is named"),
        (["operate.verb=forget", "operate.reason=x"], "name a person or a record"),
    ],
)
def test_what_is_not_said(database, changes, words):
    with pytest.raises(ContractError, match=words):
        asked("1", *changes)


def test_costs(home):
    assert "nothing has been spent yet" in told("costs")[1]
    for stage_name, seconds in (("train", 7200.0), ("train", 3600.0), ("clean", 360.0)):
        spend.record(stage_name, Cost(cpu_seconds=seconds, wall_seconds=1, money=seconds / 1000))
    code, said = told("costs")
    assert code == 0 and "train 3.00 0.00 10.8000" in said and "clean 0.10 0.00 0.3600" in said and "all 3.10 0.00 11.1600" in said
    assert '"cpu_seconds": 10800.0' in told("costs", "--json")[1]
