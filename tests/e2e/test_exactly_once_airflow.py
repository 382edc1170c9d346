"""The same with the whole stack: Airflow curates and turns the wheel, its DAGs are paused at random, and never are there two trainings at once.

pytest -m slow tests/e2e/test_exactly_once_airflow.py      (240 records: ten minutes; 10,000: hours)
"""

from __future__ import annotations

import json
import random
import signal
import threading
import time
from collections import Counter
from contextlib import suppress

import psutil
import pytest
import sqlalchemy as sa

from flywheel import manifest
from flywheel.airflow_api import AirflowApi
from flywheel.errors import FlywheelError
from flywheel.laptop import postgres
from flywheel.settings import REPOSITORY, port, settings
from flywheel.turn import find, follow, start
from tests.e2e import stack
from tests.e2e.chaos import SEED, World, check, check_data, drain, people, send, torment
from tests.e2e.stack import heads

SERVICES_KILLED = ("postgres", "mlflow", "serving", "airflow-api", "airflow-scheduler", "airflow-dags", "airflow-triggerer")
STAGES_KILLED = ("tasks.curate", "tasks.train")


class WholeStack(World):
    """The stack: its process manager starts again what is killed, and Airflow runs curation and the turns."""

    def kill(self, name: str) -> bool:
        """kill -9; False for a stage that does not run within half a minute."""
        until = time.monotonic() + 30
        while not (found := heads(self.home, name)) and time.monotonic() < until:
            time.sleep(0.1)
        for process in found:
            with suppress(psutil.Error):
                process.send_signal(signal.SIGKILL)
        return bool(found)

    def start(self, name: str) -> None:
        """The process manager does."""

    revive = start

    def assessments(self) -> list[str]:
        with postgres.connect(sa.make_url(settings().database_url), "mlflow") as mlflow:
            return [str(name) for (name,) in mlflow.execute("select assessment_id from assessments where assessment_type = 'feedback'").fetchall()]


@pytest.fixture
def whole_stack(tiny_model, monkeypatch):
    records = "\n".join(json.dumps({"instruction": f"What is {a} plus {b}?", "output": f"It is {a + b}."}) for a in range(10) for b in range(12))
    config = f"""
extends: {json.dumps(str(REPOSITORY / "config" / "demo.yaml"))}
model: {{base: {json.dumps(str(tiny_model))}}}
ingest: {{sources: [{{kind: files, path: "HOME/records.jsonl", licence: CC0-1.0, consent: made here}}], reserve: 0}}
clean: {{steps: [unicode, length, exact_duplicates, decontamination]}}
train: {{max_examples: 64, checkpoint_seconds: 1, min_new_examples: 0, start: base}}
evaluate: {{examples: 12, generate: 2, max_new_tokens: 4, corrections: 2, suites: [], embedder: ""}}
curate: {{min_batch: 20, debounce_seconds: 0.2}}
"""
    with stack.running(config, records) as made:
        for name, value in made.environment.items():
            if name.startswith("FLYWHEEL_"):
                monkeypatch.setenv(name, value)
        settings.cache_clear()
        ports = {"serving": port(settings().serving_url), "mlflow": port(settings().mlflow_url)}
        world = WholeStack(made.home, ports, made.environment, dict.fromkeys((*SERVICES_KILLED, *STAGES_KILLED)), STAGES_KILLED)
        yield world
        world.over = True
    settings.cache_clear()


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


def watch(world: World, seen: Counter) -> None:
    """How many trainings ran at a time, looked at again and again."""
    while not world.over:
        seen[len(heads(world.home, "tasks.train"))] += 1
        time.sleep(0.5)


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
    whole_stack.over = True
    threads[2].join()
    runs = AirflowApi().runs("flywheel")
    turns = Counter(run["state"] for run in runs)
    lost = [[t["task_id"] for t in AirflowApi().tasks("flywheel", r["dag_run_id"]) if t["state"] == "failed"] for r in runs if r["state"] == "failed"]
    print(f"where turns failed: {lost}")
    print(f"killed: {dict(killed)}; withdrawn: {len(withdrawn)}; trainings at a time: {dict(seen)}; turns: {dict(turns)}")
    assert set(SERVICES_KILLED) <= set(killed) and max(seen) == 1
    assert set(turns) <= {"success", "failed"}  # each has ended; one whose stage is killed at every try fails
    assert count < 10_000 or set(STAGES_KILLED) <= set(killed)
    check(whole_stack, records, withdrawn)
    check_data(manifest.read_for(manifest.run_dir("flywheel", last, settings().store), "ingest"), records, withdrawn)
