"""Feedback in random bursts while everything is killed at random: nothing lost, nothing twice, never two trainings at once.

Once with the processes that feedback passes through, and once with the whole stack, in which Airflow curates and turns the wheel while
its DAGs are paused at random. The short forms run in CI; the long ones send 10,000 records:  pytest -m slow tests/e2e/test_exactly_once.py
"""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
import uuid
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest
import sqlalchemy as sa

from flywheel import assessments, config, ledger, manifest, stage, store
from flywheel.airflow_api import AirflowApi
from flywheel.errors import FlywheelError
from flywheel.laptop import postgres
from flywheel.ledger.schema import answers, feedback
from flywheel.manifest import Manifest
from flywheel.records import Example
from flywheel.settings import REPOSITORY, port, settings
from flywheel.turn import find, follow, start
from tasks import curate, ingest
from tests.conftest import free_port
from tests.e2e import stack
from tests.e2e.stack import heads

SEED, RATERS = 20260101, 4
CURATION = """
import itertools, random, sys, time
from flywheel import config, stage
from flywheel.errors import FlywheelError
from tasks import curate
_, conf, run_dir, seed = sys.argv
chance = random.Random(int(seed))
for number in itertools.count():
    try:
        stage.execute(curate.STAGE, config.load(conf), f"{run_dir}-{number}")
    except FlywheelError as error:
        print(error.sentence)
    time.sleep(chance.uniform(0, 2))  # paused, late, or at once
"""


@dataclass
class World:
    """The processes, each of which can be killed and started again."""

    home: Path
    ports: dict[str, int]
    environment: dict[str, str]
    running: dict[str, subprocess.Popen] = field(default_factory=dict)
    over: bool = False
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=20))  # one for all: each new one reads every CA certificate
    curations: int = 0

    def command(self, name: str) -> list[str]:
        if name == "postgres":
            return postgres.command(self.home / "postgres", self.ports[name])
        if name == "mlflow":
            where = ["--backend-store-uri", f"sqlite:///{self.home}/mlflow.db", "--artifacts-destination", str(self.home / "artifacts")]
            return [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.ports[name]), "--workers", "1", *where]
        if name == "curation":
            self.curations += 1
            run_dir = store.join(settings().store, "runs", "feedback", f"try-{self.curations}")
            return [sys.executable, "-c", CURATION, settings().config, run_dir, str(self.curations)]
        return [sys.executable, "-m", "uvicorn", "serving.app:app", "--host", "127.0.0.1", "--port", str(self.ports[name]), "--no-access-log"]

    def start(self, name: str) -> None:
        options = {"cwd": "/", **postgres.as_user()} if name == "postgres" else {"cwd": str(REPOSITORY)}
        with (self.home / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                self.command(name), stdout=log, stderr=subprocess.STDOUT, env=self.environment, start_new_session=True, **options
            )

    def kill(self, name: str) -> bool:
        """As hard as it comes: -9, and for PostgreSQL the immediate shutdown, from which it recovers as from a crash."""
        process = self.running.pop(name)
        if name == "postgres":
            process.send_signal(signal.SIGQUIT)
        else:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True

    def assessments(self) -> list[str]:
        """The ids of what MLflow was told."""
        with sqlite3.connect(self.home / "mlflow.db") as mlflow:
            return [name for (name,) in mlflow.execute("select assessment_id from assessments where assessment_type = 'feedback'")]

    def revive(self, name: str) -> None:
        """Start again what ended by itself: while it was down, some connection may have been given its port."""
        if self.running[name].poll() is not None:
            self.start(name)

    def wait_for_database(self) -> None:
        url = sa.make_url(settings().database_url)
        for _ in range(600):
            self.revive("postgres")
            try:
                with postgres.connect(url, "postgres") as db:
                    if db.execute("select 1 from pg_database where datname = 'flywheel'").fetchone() is None:
                        db.execute("create database flywheel")
                return
            except psycopg.OperationalError:
                time.sleep(0.1)
        raise AssertionError("the database did not come back")

    def wait_for(self, name: str, path: str) -> None:
        for _ in range(1800):
            self.revive(name)
            try:
                if self.client.get(f"http://127.0.0.1:{self.ports[name]}{path}", timeout=2).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError(f"{name} did not come back")


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
        world = WholeStack(made.home, ports, made.environment, dict.fromkeys((*SERVICES_KILLED, *STAGES_KILLED)))
        yield world
        world.over = True
    settings.cache_clear()


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


def people(world: World, count: int) -> tuple[list[dict], set[str]]:
    """What will be sent, and the keys that will be withdrawn: each answer gets four records, of which the third supersedes the first."""
    ids = [uuid.uuid4().hex for _ in range(count // RATERS)]
    rows = [{"id": i, "prompt": f"question {n}", "input": "", "response": "wrong", "model_version": "1", "user": "asker"} for n, i in enumerate(ids)]
    with ledger.transaction() as db:
        db.execute(answers.insert(), rows)
    chance = random.Random(SEED)
    records, withdrawn = [], set()
    for number, answer in enumerate(ids):
        key = f"key-{number:06d}"
        common = {"answer_id": answer, "consent": True}
        records += [
            {**common, "idempotency_key": f"{key}-a", "user": "Ada", "correction": f"first {number}"},
            {**common, "idempotency_key": f"{key}-b", "user": "Bob", "thumb": "down"},
            {**common, "idempotency_key": f"{key}-c", "user": "Ada", "correction": f"right {number}", "supersedes": f"{key}-a"},
            {**common, "idempotency_key": f"{key}-d", "user": "Eve", "rating": 4, "comment": "fine"},
        ]
        if chance.random() < 0.1:
            withdrawn.add(f"{key}-c")
    return records, withdrawn


def insist(world: World, method: str, path: str, **options) -> httpx.Response:
    """As a client does that must not lose anything: again until it is acknowledged, at whichever server answers."""
    servers = [name for name in world.ports if name.startswith("serving")]
    while not world.over:
        try:
            reply = world.client.request(method, f"http://127.0.0.1:{world.ports[random.choice(servers)]}{path}", **options)
            if reply.status_code not in (429, 500, 502, 503):
                return reply
        except httpx.HTTPError:
            pass
        time.sleep(0.1)
    raise AssertionError("the test is over and nobody has answered")


def send(world: World, records: list[dict], withdrawn: set[str], done: threading.Event, calm: float = 1) -> None:
    """Bursts, in any order, some of it twice, up to `calm` seconds apart; some take back what they said a moment later."""
    chance = random.Random(SEED + 1)

    def one(record: dict) -> None:
        for _ in range((record["idempotency_key"][-3] == "7" and 2) or 1):
            assert insist(world, "POST", "/v1/feedback", json=record).status_code in (200, 201)
        if record["idempotency_key"] in withdrawn:
            time.sleep(random.uniform(0, 2))
            reply = insist(world, "POST", f"/v1/feedback/{record['idempotency_key']}/withdraw", json={"user": "Ada"})
            assert reply.status_code == 200, reply.text

    with ThreadPoolExecutor(8) as senders:
        waiting = list(records)
        while waiting:
            size = chance.randint(1, 40) * RATERS
            burst, waiting = waiting[:size], waiting[size:]
            chance.shuffle(burst)
            list(senders.map(one, burst))
            time.sleep(chance.uniform(0, calm))
    done.set()


def torment(world: World, done: threading.Event, pause: float) -> Counter:
    """Kill and start again, at random, until everything is sent, and each at least once; a pause of seconds lets what was started work."""
    chance, killed = random.Random(SEED + 2), Counter()
    names = list(world.running)
    while not done.is_set() or {n for n in names if n not in STAGES_KILLED} - set(killed):
        time.sleep(chance.uniform(0.1, 1) * pause)
        name = chance.choice([n for n in names if n not in killed] or names)
        if not world.kill(name):
            continue
        killed[name] += 1
        time.sleep(chance.uniform(0, 2))
        world.start(name)
        if name == "postgres":
            world.wait_for_database()
        elif name.startswith("serving"):
            world.wait_for(name, "/healthz")
    return killed


def drain(world: World) -> None:
    """Everything is well again: let what is owed be paid. Serving and the curation loop go on beside."""
    world.wait_for("mlflow", "/health")
    until = time.monotonic() + 3000
    while time.monotonic() < until:
        with ledger.transaction() as db:
            open_ = sa.or_(feedback.c.batch.is_(None), feedback.c.logged.is_(None), feedback.c.unsettled)
            left = db.execute(sa.select(sa.func.count()).where(open_)).scalar_one()
        if not left and ledger.unfinished_batch() is None:
            return
        try:
            ledger.seal_segments()
            conf = config.load(settings().config, ["curate.max_wait_hours=0"])
            stage.execute(curate.STAGE, conf, store.join(settings().store, "runs", "feedback", f"drain-{time.monotonic_ns()}"))
            ledger.settle()
            assessments.log_pending()
        except FlywheelError as error:
            print(error.sentence)
        time.sleep(0.2)
    raise AssertionError("not everything was worked off")


def once(found: list[str]) -> set[str]:
    """What is there, and none of it twice."""
    assert len(found) == len(set(found)), [name for name, n in Counter(found).items() if n > 1][:5]
    return set(found)


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


def check(world: World, records: list[dict], withdrawn: set[str]) -> None:
    """Each record is in the ledger, a segment, a batch and MLflow, once."""
    with ledger.transaction() as db:
        rows = db.execute(sa.select(feedback.c.id, feedback.c.idempotency_key, feedback.c.withheld)).all()
    assert once([row.idempotency_key for row in rows]) == {r["idempotency_key"] for r in records}
    ids = {row.id for row in rows}
    folder = store.join(settings().store, ledger.SEGMENTS)
    assert once([json.loads(line)["id"] for name in store.list_names(folder) for line in store.read_bytes(store.join(folder, name)).splitlines()]) == ids
    folder = store.join(settings().store, ledger.BATCHES)
    batches = [json.loads(store.read_bytes(store.join(folder, name))) for name in store.list_names(folder)]
    assert once([name for batch in batches for name in batch["feedback"]]) == ids
    assert once(world.assessments()) == {f"a-{i}" for i in ids}
    assert {row.withheld for row in rows if row.idempotency_key in withdrawn} <= {"withdrawn"}


def check_data(run: Manifest, records: list[dict], withdrawn: set[str]) -> None:
    """The data set of the next turn: each correction that stands is in it once, and nothing that was taken back or replaced."""
    examples = map(Example.model_validate_json, run.outputs["records"].fetch(settings().home / "cache").read_bytes().splitlines())
    learned = once([name for example in examples for name in example.feedback_ids])
    with ledger.transaction() as db:
        by_key = dict(db.execute(sa.select(feedback.c.idempotency_key, feedback.c.id)).all())
    assert learned == {by_key[r["idempotency_key"]] for r in records if r.get("supersedes") and r["idempotency_key"] not in withdrawn}


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
    print(f"killed: {dict(killed)}; withdrawn: {len(withdrawn)}; trainings at a time: {dict(seen)}")
    assert set(SERVICES_KILLED) <= set(killed) and max(seen) == 1
    assert count < 10_000 or set(STAGES_KILLED) <= set(killed)
    check(whole_stack, records, withdrawn)
    check_data(manifest.read_for(manifest.run_dir("flywheel", last, settings().store), "ingest"), records, withdrawn)
