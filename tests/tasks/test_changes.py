"""New data and another config start a turn, once; what the newest turns were made of is all that is known."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from flywheel import config, manifest, stage, store
from flywheel.manifest import Manifest
from flywheel.settings import settings
from tasks import changes, ingest


class Airflow:
    """Runs by id; paused or not."""

    def __init__(self) -> None:
        self.all, self.paused = {}, False

    def runs(self, dag):
        return list(self.all.values())

    def dag(self, dag):
        return {"is_paused": self.paused}

    def trigger(self, dag, conf, run_id=""):
        self.all.setdefault(run_id, {"dag_run_id": run_id, "state": "queued"})
        return run_id


@pytest.fixture
def airflow(home, monkeypatch):
    home.mkdir()
    found = Airflow()
    monkeypatch.setattr(changes, "AirflowApi", lambda: found)
    write(home, 3)
    return found


def write(home, rows):
    (home / "r.jsonl").write_text("".join(json.dumps({"instruction": f"q{n}", "output": f"a{n}"}) + "\n" for n in range(rows)))
    source = {"kind": "files", "path": str(home / "r.jsonl"), "licence": "CC0-1.0", "consent": "made here"}
    (home / "c.yaml").write_text(json.dumps({"ingest": {"sources": [source]}}))


def look(home, number, *sets):
    conf = config.load(str(home / "c.yaml"), [f'ingest.interval_end="2026-01-01T{number:02}:00:00+00:00"', *sets])
    return stage.execute(changes.STAGE, conf, store.join(settings().store, "runs", "changes", str(number)))


def turn(home, run, *sets):
    """What the turn that was started leaves: its `ingest` for real, and the end of its `summary`."""
    conf = config.load(str(home / "c.yaml"), ['ingest.interval_end="2026-01-01T09:30:00+00:00"', *sets])
    folder, now = store.join(settings().store, "runs", "flywheel", run), datetime.now(UTC)
    stage.execute(ingest.STAGE, conf, folder)
    told = {"ended": "promoted", "config": conf.digest()}
    manifest.write(Manifest(stage="summary", run_dir=store.relative(folder), attempt=1, cache_key="k", metrics=told, started=now, ended=now), folder)


def end(airflow):
    for run in airflow.all.values():
        run["state"] = "success"


def test_only_what_no_recent_turn_was_made_of_starts_one(airflow, home):
    first = look(home, 1)
    assert first.metrics["changed"] == "the config" and list(airflow.all) == [first.metrics["run"]]  # nothing has turned yet
    assert "on its way" in look(home, 2).reason and len(airflow.all) == 1
    turn(home, first.metrics["run"])
    end(airflow)
    assert "was made of these" in look(home, 3).reason and len(airflow.all) == 1

    write(home, 4)
    airflow.paused = True
    assert "is paused" in look(home, 4).reason and len(airflow.all) == 1
    airflow.paused = False
    second = look(home, 5)
    assert second.metrics["changed"] == "the sources" and len(airflow.all) == 2
    turn(home, second.metrics["run"])
    end(airflow)

    third = look(home, 6, "gate.slice_margin=0.07")
    assert third.metrics["changed"] == "the config" and len(airflow.all) == 3
    turn(home, third.metrics["run"], "gate.slice_margin=0.07")
    end(airflow)
    assert look(home, 7, "gate.slice_margin=0.07").outcome == look(home, 8).outcome == "skipped" and len(airflow.all) == 3


def test_a_change_whose_turn_fails_starts_it_once_a_day(airflow, home):
    look(home, 1)
    end(airflow)  # at `ingest`: it has left nothing
    assert look(home, 2).outcome == "done" and len(airflow.all) == 1
