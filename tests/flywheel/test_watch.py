"""What nobody noticed is found and told once; a turn for stranded feedback is started once, whatever Airflow lost of its events."""

from __future__ import annotations

import json
import random
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from flywheel import ledger, manifest, notices, store, turn, watch
from flywheel.airflow_api import AirflowApi
from flywheel.errors import TransientError
from flywheel.manifest import Artifact, Manifest
from flywheel.settings import settings
from tests.receivers import webhook

NOW = datetime(2026, 1, 10, 12, tzinfo=UTC)


class Airflow:
    """As much of Airflow as is asked: runs by id, nights without a run, open questions; paused or not, there or away."""

    def __init__(self) -> None:
        self.all: dict[str, dict] = {}
        self.empty: list[str] = []
        self.open: list[dict] = []
        self.paused = self.away = False
        self.triggered: list[str] = []

    def runs(self, dag):
        if self.away:
            raise TransientError("Airflow does not answer", where="here", mend="Wait.")
        return list(reversed(self.all.values()))

    def questions(self, dag):
        return self.open

    def nights(self, dag, first, last, again="none"):
        return [night for night in self.empty if first.isoformat() <= night <= last.isoformat()]

    def dag(self, dag):
        return {"is_paused": self.paused}

    def trigger(self, dag, conf, run_id=""):
        self.triggered.append(run_id)
        self.all.setdefault(run_id, {"dag_run_id": run_id, "state": "queued", "conf": conf, "run_type": "manual", "start_date": None})
        return run_id


@pytest.fixture
def airflow(database, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_FIRST_NIGHT", "2026-01-01")
    settings.cache_clear()
    return Airflow()


def kinds(airflow, now=NOW):
    found, problems = watch.look(airflow, now)
    assert not problems
    return [(finding.kind, finding.key) for finding in found]


def running(hours):
    return {
        "dag_run_id": f"scheduled__{hours}",
        "state": "running",
        "start_date": (NOW - timedelta(hours=hours)).isoformat(),
        "conf": {},
        "run_type": "scheduled",
    }


def test_a_turn_is_late_after_some_hours_unless_it_waits_for_a_person(airflow):
    airflow.all = {"a": running(5), "b": running(7)}
    assert kinds(airflow) == [("late", "late scheduled__7")]
    airflow.open = [{"created_at": NOW.isoformat(), "subject": "Roll out version 4?", "task_instance": {"dag_run_id": "scheduled__7"}}]
    assert kinds(airflow) == []


def test_missed_nights_are_named_with_the_command_that_makes_up_for_them(airflow):
    airflow.empty = ["2026-01-07T02:00:00+00:00", "2026-01-05T02:00:00+00:00", "2026-01-10T02:00:00+00:00"]  # the last is still to come
    (finding,), _ = watch.look(airflow, NOW)
    assert finding.facts == {"nights": ["2026-01-05", "2026-01-07"], "command": "python -m flywheel backfill 2026-01-05 2026-01-07"}


def test_a_stage_that_hangs_is_told_of(airflow):
    told = {"stage": "train", "at": "2026-01-10T11:00:00+00:00", "minutes": 30.0, "stopped": False, "where": "loop.py"}
    store.write_bytes(store.join(settings().store, "runs/flywheel/scheduled__1/train/silent.json"), json.dumps(told).encode())
    assert kinds(airflow) == [("hang", "hang scheduled__1 train 2026-01-10T11:00:00+00:00")]


def test_questions_are_reminded_of_twice(airflow):
    def asked(hours):
        began = (NOW - timedelta(hours=hours)).isoformat()
        airflow.open = [{"created_at": began, "subject": "Roll out version 4?", "task_instance": {"dag_run_id": "r"}}]
        return [(kind, key[-3:].strip()) for kind, key in kinds(airflow)]

    assert asked(20) == [] and asked(25) == [("reminder", "50")] and asked(44) == [("reminder", "90")]


def test_feedback_that_nobody_curates_is_told_of_once_a_day(airflow):
    answer = ledger.add_answer("p", "", "r", "1")
    with ledger.transaction() as db:
        body = json.dumps({"consent": True, "correction": "better", "user": "u"})
        db.exec_driver_sql(
            "insert into feedback (id, idempotency_key, answer_id, at, body, keep_until) values ('f', 'k', %s, %s, %s, %s)",
            (answer, NOW - timedelta(hours=40), body, NOW + timedelta(days=9)),
        )
    assert kinds(airflow) == [("queue", "queue 2026-01-10")] and kinds(airflow, NOW - timedelta(hours=10)) == []


def test_everything_is_told_once_and_an_airflow_that_is_away_hides_nothing_else(airflow, home, monkeypatch):
    monkeypatch.setattr(watch, "AirflowApi", lambda: airflow)
    with webhook() as slack:
        home.mkdir(exist_ok=True)
        (home / "url").write_text(slack.address)
        (home / "notices.yaml").write_text(yaml.safe_dump({"channels": [{"name": "team", "kind": "slack", "url_file": "url"}]}))
        airflow.all = {"b": {**running(7), "start_date": "2026-01-01T00:00:00Z"}}
        assert watch.once() == ["late scheduled__7: told"] and watch.once() == ["late scheduled__7"]
        assert len(slack.got) == 1 and "is late" in slack.got[0]["text"]
        airflow.away = True
        store.write_bytes(
            store.join(settings().store, "runs/flywheel/scheduled__1/train/silent.json"),
            json.dumps({"stage": "train", "at": "x", "minutes": 30.0, "stopped": True, "where": "w"}).encode(),
        )
        said = watch.once()
        assert said[0] == "hang scheduled__1 train x: told" and "Airflow does not answer" in said[1] and len(slack.got) == 2


def publish(numbers) -> None:
    for number in numbers:
        store.write_bytes(store.join(settings().store, ledger.BATCHES, f"{number:06d}.json"), b"{}")


def learn(run: str) -> None:
    """A turn's `ingest`, which takes every batch that is there."""
    folder = store.join(settings().store, "runs", "flywheel", run)
    names = [name.removesuffix(".json") for name in store.list_names(store.join(settings().store, ledger.BATCHES))]
    inputs = {f"batch.{name}": Artifact(uri=name, sha256="0", bytes=0) for name in names}
    manifest.write(Manifest(stage="ingest", run_dir=store.relative(folder), attempt=1, cache_key="k", inputs=inputs, started=NOW, ended=NOW), folder)


def test_events_while_paused_while_a_run_is_active_or_in_a_burst_strand_nothing(airflow):
    """No event of Airflow's reaches anybody here: what the ledger published is learned all the same, with as few turns as it takes."""
    dice = random.Random(7)
    for number in range(1, 1001):  # a burst; with looks, pauses and turns at any moment in between
        publish([number])
        deed = dice.random()
        if deed < 0.05:
            airflow.paused = not airflow.paused
        elif deed < 0.15:
            before = len(airflow.triggered)
            watch.start_stranded(airflow, airflow.runs("flywheel"))
            active = [run for run in airflow.all.values() if run["state"] in watch.ACTIVE]
            assert len(active) <= 1 and not (airflow.paused and len(airflow.triggered) > before)
        elif deed < 0.25:
            for run in airflow.all.values():
                if run["state"] == "queued":
                    run["state"] = "running"
                    learn(run["dag_run_id"])
                elif run["state"] == "running":
                    run["state"] = "success"
    airflow.paused = False
    for _ in range(3):
        watch.start_stranded(airflow, airflow.runs("flywheel"))
        for run in airflow.all.values():
            if run["state"] == "queued":
                learn(run["dag_run_id"])
            run["state"] = "success"
    assert watch.unlearned(watch.newest_runs()) == []
    assert watch.start_stranded(airflow, airflow.runs("flywheel")) == "" and len(airflow.triggered) < 60


def test_two_looks_at_once_start_one_turn(airflow):
    publish([1, 2])
    with ThreadPoolExecutor(4) as lookers:
        ids = set(lookers.map(lambda _: watch.start_stranded(airflow, []), range(4)))
    assert len(ids) == 1 and len(airflow.all) == 1 and "batches_000001_000002" in ids.pop()


def test_two_triggers_at_once_make_one_run(airflow, monkeypatch):
    monkeypatch.setattr(turn, "AirflowApi", lambda: airflow)
    one = turn.start({"set": [], "config": "", "rollout": "auto"})
    assert turn.start({}) == one and len(airflow.all) == 1
    other = turn.start({"set": ["seed=2"]})
    assert other != one and len(airflow.all) == 2
    airflow.all[one]["state"] = "running"  # what has begun may have missed what this one is to see
    monkeypatch.setattr(turn, "AT_ONCE", 1)
    monkeypatch.setattr(turn, "datetime", type("Later", (datetime,), {"now": classmethod(lambda cls, tz=None: datetime.now(tz) + timedelta(minutes=1))}))
    assert turn.start({}) not in (one, other)


def test_airflow_names_the_nights_of_a_backfill(home, monkeypatch):
    asked = []

    def call(self, method, path, **options):
        asked.append((method, path, options["json"]))
        return {"backfills": [{"logical_date": "2026-01-05T02:00:00Z"}], "id": 3}

    monkeypatch.setattr(AirflowApi, "_call", call)
    api = AirflowApi()
    assert api.nights("flywheel", NOW, NOW) == ["2026-01-05T02:00:00Z"] and api.backfill("flywheel", NOW, NOW, {}, 4, "failed") == 3
    assert asked[1][2]["max_active_runs"] == 4 and asked[1][2]["reprocess_behavior"] == "failed"
    assert notices.KINDS
