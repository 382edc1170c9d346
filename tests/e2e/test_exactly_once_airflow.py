"""The same with the whole stack: Airflow curates and turns the wheel, its DAGs are paused at random, and never are there two trainings at once.

pytest -m slow tests/e2e/test_exactly_once_airflow.py      (240 records: ten minutes; 10,000: half an hour)
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from contextlib import suppress

import pytest

from flywheel import manifest
from flywheel.airflow_api import AirflowApi
from flywheel.errors import FlywheelError
from flywheel.settings import settings
from flywheel.turn import find, follow, start
from tests.e2e.chaos import SEED, SERVICES_KILLED, STAGES_KILLED, World, check, check_data, drain, people, send, torment, watch


def whims(world: World, done: threading.Event) -> None:
    """Somebody pauses and unpauses the DAGs at random, and starts a turn of another seed whenever none runs. In the end both DAGs run."""
    chance, api, turns = random.Random(SEED + 3), AirflowApi(), 0
    while not world.over:
        with suppress(FlywheelError):  # Airflow is away just now
            if not done.is_set():
                api.pause(chance.choice(["feedback", "flywheel"]), paused=chance.random() < 0.4)
                if all(run["state"] in ("success", "failed") for run in api.runs("flywheel")):
                    turns += 1
                    api.trigger("flywheel", {"set": [f"seed={turns}"]})
            else:
                api.pause("feedback", paused=False)
                api.pause("flywheel", paused=False)
                return
        done.wait(chance.uniform(1, 8))


def all_ended(seconds: float = 900) -> list[dict]:
    """Every turn, once none is on its way: the last batch may have started one. One whose stage is killed at every try has failed."""
    api, until = AirflowApi(), time.monotonic() + seconds
    while {run["state"] for run in api.runs("flywheel")} - {"success", "failed"}:
        assert time.monotonic() < until, api.runs("flywheel")
        time.sleep(2)
    return api.runs("flywheel")


@pytest.mark.parametrize(("count", "calm", "pause"), [(240, 10, 2), (10_000, 10, 20)])
@pytest.mark.slow
def test_nor_under_airflow_and_never_two_trainings_at_once(whole_stack, count, calm, pause):
    records, withdrawn = people(whole_stack, count)
    done, seen = threading.Event(), Counter()
    find(AirflowApi(), "feedback")
    jobs = [(send, (whole_stack, records, withdrawn, done, calm)), (whims, (whole_stack, done)), (watch, (whole_stack, seen))]
    threads = [threading.Thread(target=job, args=arguments, daemon=True) for job, arguments in jobs]
    for thread in threads:
        thread.start()
    killed = torment(whole_stack, done, pause)
    for thread in threads[:2]:
        thread.join()
    drain(whole_stack)
    last = start({})  # waits for whatever turn runs still
    follow(last, 1500)
    runs = all_ended()
    whole_stack.over = True
    threads[2].join()
    turns = Counter(run["state"] for run in runs)
    lost = [[t["task_id"] for t in AirflowApi().tasks("flywheel", r["dag_run_id"]) if t["state"] == "failed"] for r in runs if r["state"] == "failed"]
    print(f"where turns failed: {lost}")
    print(f"killed: {dict(killed)}; withdrawn: {len(withdrawn)}; trainings at a time: {dict(seen)}; turns: {dict(turns)}")
    assert set(SERVICES_KILLED) <= set(killed) and max(seen) == 1
    assert count < 10_000 or set(STAGES_KILLED) <= set(killed)
    check(whole_stack, records, withdrawn)
    check_data(manifest.read_for(manifest.run_dir("flywheel", last, settings().store), "ingest"), records, withdrawn)
