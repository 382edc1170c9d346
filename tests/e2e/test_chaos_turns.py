"""Three turns while every service and whatever stage runs are killed at random: all three end, nothing is lost or doubled, nothing is left behind.

pytest -m slow -s tests/e2e/test_chaos_turns.py        (half an hour)
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
from flywheel.turn import STAGES, find, follow, start
from tests.e2e.chaos import SEED, SERVICES_KILLED, World, check, check_data, drain, people, send, watch
from tests.e2e.stack import processes

TURNS, RECORDS, SECONDS = 3, 80, 2400
KINDS = (*SERVICES_KILLED, "a stage", "a stage", "a stage")


def running(world: World) -> list[str]:
    """The stages that run now."""
    return sorted({word for _, _, command in processes(world.home) for word in command if word.startswith("tasks.")})


def storm(world: World, killed: Counter, calm: threading.Event) -> None:
    """Kill something every twelve seconds or so: a service, or a stage that runs."""
    chance = random.Random(SEED + 4)
    while not calm.wait(chance.uniform(6, 18)):
        name = chance.choice(KINDS)
        if name == "a stage":
            name = chance.choice(running(world) or [""])
        if name and world.kill(name):
            killed[name] += 1


def end(api: AirflowApi, run_id: str) -> int:
    """Wait until a run has succeeded, and clear what failed for good, as an operator does; how often that was."""
    cleared, until = 0, time.monotonic() + SECONDS
    while time.monotonic() < until:
        with suppress(FlywheelError):  # Airflow is away just now
            state = api.run("flywheel", run_id)["state"]
            if state == "success":
                return cleared
            if state == "failed":
                api._call("POST", "/dags/flywheel/clearTaskInstances", json={"dag_run_id": run_id, "only_failed": True, "dry_run": False})
                cleared += 1
        time.sleep(3)
    raise AssertionError(api.tasks("flywheel", run_id))


@pytest.mark.slow
def test_three_turns_end_whatever_is_killed(whole_stack):
    records, withdrawn = people(whole_stack, RECORDS)
    killed, seen, cleared, calm = Counter(), Counter(), [], threading.Event()
    api = AirflowApi()
    find(api, "flywheel")
    api.unpause("flywheel")
    jobs = [(send, (whole_stack, records, withdrawn, threading.Event(), 20)), (watch, (whole_stack, seen)), (storm, (whole_stack, killed, calm))]
    threads = [threading.Thread(target=job, args=arguments, daemon=True) for job, arguments in jobs]
    for thread in threads:
        thread.start()
    for number in range(TURNS):
        run_id = api.trigger("flywheel", {"set": [f"seed={number + 1}"]})
        cleared.append(end(api, run_id))
        folder = manifest.run_dir("flywheel", run_id, settings().store)
        assert {name: manifest.read_for(folder, name).outcome for name in STAGES[:-1]} == dict.fromkeys(STAGES[:-1], "done")
        print(f"turn {number + 1} ended; cleared {cleared[-1]} times; killed so far: {dict(killed)}", flush=True)
    calm.set()
    threads[2].join()
    assert sum(killed[name] for name in SERVICES_KILLED) >= 10 and sum(n for name, n in killed.items() if name.startswith("tasks.")) >= 3
    until = time.monotonic() + 30
    while running(whole_stack) and time.monotonic() < until:
        time.sleep(0.5)
    assert not running(whole_stack)  # a stage whose task is gone is gone, too
    threads[0].join()
    drain(whole_stack)
    last = start({})
    follow(last, 1500)
    whole_stack.over = True
    print(f"killed: {dict(killed)}; cleared: {cleared}; trainings at a time: {dict(seen)}")
    assert max(seen) == 1
    check(whole_stack, records, withdrawn)
    check_data(manifest.read_for(manifest.run_dir("flywheel", last, settings().store), "ingest"), records, withdrawn)
