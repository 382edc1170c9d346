"""On a real Airflow: events of new feedback that come while `flywheel` is paused, while a run is active, and by the thousand. None is stranded.

pytest -m slow tests/e2e/test_events.py        (a quarter of an hour)

What the ledger has published is learned, by whichever of Airflow's event and `watch` comes first, and with few turns.
"""

from __future__ import annotations

import time
import uuid
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from flywheel import config, ledger, stage, store, watch
from flywheel.settings import settings
from tasks import curate

pytestmark = pytest.mark.slow
SECONDS = 2400


def publish(name: str, people: int = 24) -> None:
    """So many people correct an answer, and curation makes a batch of it, as the DAG `feedback` does."""
    with httpx.Client(base_url=settings().serving_url, timeout=60) as client:
        answer = client.post("/v1/generate", json={"instruction": f"What is {name}?", "max_new_tokens": 2}).json()["answer_id"]
        for number in range(people):
            said = {
                "answer_id": answer,
                "idempotency_key": str(uuid.uuid4()),
                "user": f"{name}-{number}",
                "correction": f"It is {name}, {number}.",
                "consent": True,
            }
            assert client.post("/v1/feedback", json=said).status_code == 201
    ledger.seal_segments()
    conf = config.load(settings().config, ["curate.max_wait_hours=0", "curate.min_batch=1", "curate.debounce_seconds=0"])
    assert stage.execute(curate.STAGE, conf, store.join(settings().store, "runs", "feedback", name)).outcome == "done"


def burst(airflow, count: int) -> None:
    """So many events of the asset `feedback_ready`, as fast as Airflow takes them."""
    (asset,) = airflow._call("GET", "/assets", params={"name_pattern": "feedback_ready"})["assets"]
    with ThreadPoolExecutor(4) as senders:
        list(senders.map(lambda _: airflow._call("POST", "/assets/events", json={"asset_id": asset["id"], "extra": {}}), range(count)))


def active(airflow) -> list[str]:
    return [run["dag_run_id"] for run in airflow.runs("flywheel") if run["state"] in watch.ACTIVE]


def settle(airflow) -> None:
    """Look as the DAG `watch` does, until nothing runs and nothing is left to learn."""
    until = time.monotonic() + SECONDS
    while active(airflow) or watch.unlearned(watch.newest_runs()):
        assert time.monotonic() < until, airflow.runs("flywheel")
        watch.start_stranded(airflow, airflow.runs("flywheel"))
        assert len([run for run in airflow.runs("flywheel") if run["state"] == "running"]) <= 1
        time.sleep(5)


def test_no_event_is_stranded(airflow):
    before = {run["dag_run_id"] for run in airflow.runs("flywheel")}
    airflow.pause("flywheel", paused=True)
    publish("paused")
    burst(airflow, 500)
    assert watch.start_stranded(airflow, airflow.runs("flywheel")) == ""  # somebody paused it
    airflow.unpause("flywheel")
    until = time.monotonic() + SECONDS
    while not (running := [run for run in airflow.runs("flywheel") if run["state"] == "running" and run["dag_run_id"] not in before]):
        assert time.monotonic() < until
        watch.start_stranded(airflow, airflow.runs("flywheel"))
        time.sleep(2)
    publish("active")  # the run that is active may have read its feedback already
    burst(airflow, 500)
    settle(airflow)
    made = [run for run in airflow.runs("flywheel") if run["dag_run_id"] not in before]
    print(f"1,000 events, {len(made)} turns: {[(run['run_type'], run['state']) for run in made]}; the first that was active: {running[0]['dag_run_id']}")
    assert all(run["state"] == "success" for run in made) and len(made) <= 6
    assert watch.unlearned(watch.newest_runs()) == []
