"""Feedback in random bursts while the processes that it passes through are killed at random: nothing lost, nothing twice.

The short form runs in CI; the long one sends 10,000 records:  pytest -m slow tests/e2e/test_exactly_once.py
"""

from __future__ import annotations

import json
import os
import threading

import pytest

from flywheel import config, stage, store
from flywheel.laptop import postgres
from flywheel.settings import REPOSITORY, settings
from tasks import ingest
from tests.conftest import free_port
from tests.e2e.chaos import World, check, check_data, drain, people, send, torment


@pytest.fixture
def world(home, monkeypatch):
    ports = {name: free_port() for name in ("postgres", "mlflow", "serving", "serving-2")}
    home.mkdir()
    source = {"kind": "files", "path": str(home / "own.jsonl"), "licence": "CC0-1.0", "consent": "made here"}
    (home / "own.jsonl").write_text('{"instruction": "one", "output": "two"}\n')
    curate = {"min_batch": 20, "debounce_seconds": 0.2, "rules": [{"step": "corrections", "pairs": False}]}  # what becomes of each is then known
    own = {"model": {"base": str(home / "no model")}, "ingest": {"sources": [source]}, "curate": curate}
    (home / "config.yaml").write_text(json.dumps(own))
    monkeypatch.setenv("FLYWHEEL_DATABASE_URL", f"postgresql+psycopg://flywheel@127.0.0.1:{ports['postgres']}/flywheel")
    monkeypatch.setenv("FLYWHEEL_MLFLOW_URL", f"http://127.0.0.1:{ports['mlflow']}")
    settings.cache_clear()
    postgres.initialise(home / "postgres")
    quiet = {
        "FLYWHEEL_SERVING_AUTH": "off",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONPATH": str(REPOSITORY),
        "OMP_NUM_THREADS": "1",
    }
    made = World(home, ports, {**os.environ, **quiet})
    made.start("postgres")
    made.wait_for_database()
    yield made
    made.over = True
    for name in list(made.running):
        made.kill(name)


@pytest.mark.parametrize(("count", "servers", "pause"), [(240, 1, 3), pytest.param(10_000, 2, 20, marks=pytest.mark.slow)])
def test_nothing_is_lost_and_nothing_is_twice(world, count, servers, pause):
    records, withdrawn = people(world, count)
    names = ["mlflow", "serving", "serving-2"][: servers + 1]
    if servers == 1:
        del world.ports["serving-2"]
    for name in (*names, "curation"):
        world.start(name)
    for name in names[1:]:
        world.wait_for(name, "/healthz")
    world.wait_for("mlflow", "/health")  # it makes its tables in SQLite step by step, and killed at that it never starts again
    done = threading.Event()
    sender = threading.Thread(target=send, args=(world, records, withdrawn, done), daemon=True)
    sender.start()
    killed = torment(world, done, pause)
    sender.join()
    drain(world)
    print(f"killed: {dict(killed)}; withdrawn: {len(withdrawn)}")
    assert set(killed) == {"postgres", "curation", *names}
    check(world, records, withdrawn)
    run = stage.execute(ingest.STAGE, config.load(settings().config), store.join(settings().store, "runs", "flywheel", "after"))
    check_data(run, records, withdrawn)
