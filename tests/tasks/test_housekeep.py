"""Housekeeping on a real ledger: what has expired goes, what is held stays, and the rest is looked after."""

import json
import os
import subprocess
import time
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from flywheel import cli, config, forgetting, ledger, stage, store
from flywheel.errors import ContractError, TransientError
from flywheel.laptop import services
from flywheel.ledger import schema
from flywheel.settings import REPOSITORY, settings
from tasks import housekeep
from tests.flywheel.ledger.conftest import ask, curate, give, sealed_lines


@pytest.fixture(autouse=True)
def airflow(home, monkeypatch):
    """An interpreter in the place of Airflow's, which writes down what it was called with."""
    home.mkdir()
    program = home / "airflow-python"
    program.write_text(f"#!/bin/sh\necho \"$@\" > '{home}/called'\necho the last line >&2\nexit ${{FAIL:-0}}\n")
    program.chmod(0o755)
    monkeypatch.setattr(services, "airflow_python", lambda: str(program))
    return home / "called"


def keep_house(name, *changes):
    conf = config.load(str(REPOSITORY / "config" / "flywheel.yaml"), list(changes))
    return stage.execute(housekeep.STAGE, conf, store.join(settings().store, "runs", "housekeeping", name))


def expire(*records):
    with ledger.transaction() as db:
        chosen = sa.update(schema.feedback).where(schema.feedback.c.id.in_(records))
        db.execute(chosen.values(keep_until=datetime.now(UTC) - timedelta(days=1)))


def command(*arguments):
    done = CliRunner().invoke(cli.app, list(arguments))
    return done.exit_code, " ".join(done.output.split())


def test_what_was_kept_long_enough_is_forgotten_each_night_and_what_is_held_is_not(database, mlflow_server):
    old, young, held, eves = give(1), give(2), give(3), give(4, ask(4, user="Eve"), user="Eve")
    expire(old, held, eves)
    assert command("hold", "--record", held, "--reason", "a lawsuit") == (0, f"record {held} is held")
    assert command("hold", "--user", "Eve", "--reason", "a lawsuit")[0] == 0
    done = keep_house("1", 'housekeep.reason="the law"')
    assert (done.metrics["forgotten"], done.metrics["pending"]) == (1, 0)
    proof = json.loads(done.outputs["proof"].fetch(settings().home / "cache").read_bytes())
    assert [entry["id"] for entry in proof["records"]] == [old] and proof["reason"] == "the law"
    assert ledger.find(old).body == {} and all(ledger.find(one).body for one in (young, held, eves))
    for wish in ({"user": "Eve"}, {"record": held}):
        with pytest.raises(ContractError, match="legal hold"):
            forgetting.forget("tester", "asked for", **wish)
    assert "a lawsuit" in command("holds")[1] and command("hold", "--reason", "x")[0] == 2
    for option in (("--record", held), ("--user", "Eve")):
        assert command("hold", *option, "--reason", "it is over", "--lift")[0] == 0
    assert command("hold", "--user", "Eve", "--reason", "x", "--lift")[0] == 2
    assert [e["action"] for e in ledger.list_events()][:4] == ["lift", "lift", "forget", "hold"]
    assert keep_house("2").metrics["forgotten"] == 2


def test_segments_go_when_their_records_are_in_finished_batches_and_come_back_for_nobody(database, mlflow_server, home):
    one = give(1, correction="one")
    curate(home)
    give(2)
    ledger.seal_segments()
    with ledger.transaction() as db:
        db.execute(sa.update(schema.segments).values(sealed=datetime.now(UTC) - timedelta(days=100)))
    assert keep_house("0").metrics["segments"] == 0  # no policy, no deletion
    assert command("hold", "--record", one, "--reason", "a lawsuit")[0] == 0
    assert keep_house("1", "housekeep.segment_days=90").metrics["segments"] == 0
    command("hold", "--record", one, "--reason", "over", "--lift")
    assert keep_house("2", "housekeep.segment_days=90", "housekeep.delete=false").metrics["segments"] == 0
    assert keep_house("3", "housekeep.segment_days=90").metrics["segments"] == 1
    assert len(sealed_lines()) == 1 and ledger.find(one).body  # the second one waits for a batch
    forgetting.forget("tester", "asked for", record=one)
    assert len(sealed_lines()) == 1 and ledger.find(one).body == {}


def test_old_files_go_the_store_is_told_of_and_databases_are_tidied(database, mlflow_server, home, airflow, monkeypatch):
    ask()
    old = home / "store" / "runs" / "flywheel" / "old" / "clean" / "attempt-1" / "train.jsonl"
    old.parent.mkdir(parents=True)
    old.write_text("x" * 100)
    os.utime(old, (time.time() - 100 * 86400,) * 2)
    with ledger.transaction() as db:
        db.execute(
            sa.text(
                "insert into feature_reads (at, reader, entity, key, views) values (now() - interval '91 days', 'a', 'user', 'b', '{}'), (now(), 'a', 'user', 'b', '{}')"
            )
        )
    code, said = command("storage")
    assert code == 0 and "runs 1 100 B 0 B 100 B" in said
    dry = keep_house("1", "housekeep.delete=false")
    assert old.exists() and (dry.metrics["deleted"], dry.metrics["bytes"]) == (0, 100) and not airflow.exists()
    done = keep_house("2")
    assert not old.exists() and done.metrics["deleted"] == 1 and done.metrics["feature_reads"] == 1
    assert json.loads(done.outputs["deleted"].fetch(home / "cache").read_text()) == {
        "key": "runs/flywheel/old/clean/attempt-1/train.jsonl",
        "why": "run",
        "bytes": 100,
    }
    assert json.loads(done.outputs["storage"].fetch(home / "cache").read_text())["runs"]["removable"] == 100
    assert airflow.read_text().startswith("-m airflow db clean --clean-before-timestamp ")
    monkeypatch.setenv("FAIL", "1")
    with pytest.raises(TransientError, match="airflow db clean: the last line"):
        keep_house("3")


@pytest.mark.slow
def test_airflow_is_cleaned_for_real(postgres_server, database, home, monkeypatch):
    """On a database that Airflow has just made."""
    monkeypatch.undo()
    monkeypatch.setenv("FLYWHEEL_HOME", str(home))
    monkeypatch.setenv("FLYWHEEL_DATABASE_URL", database)
    monkeypatch.setenv("FLYWHEEL_AIRFLOW_DATABASE_URL", database)
    settings.cache_clear()
    environment = {**os.environ, **services.airflow_environment(settings())}
    subprocess.run([services.airflow_python(), "-m", "airflow", "db", "migrate"], env=environment, check=True)
    ctx = stage.Context(housekeep.STAGE, config.load(str(REPOSITORY / "config" / "flywheel.yaml")), str(home / "run"))
    ledger.find("x")
    housekeep.tidy(ctx, datetime.now(UTC))
    assert ctx.metrics["feature_reads"] == 0
