"""People who send feedback in bursts, what it passes through being killed at random, and whether each record ended in exactly one place."""

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
import sqlalchemy as sa

from flywheel import assessments, config, ledger, stage, store
from flywheel.errors import FlywheelError
from flywheel.laptop import postgres
from flywheel.ledger.schema import answers, feedback
from flywheel.manifest import Manifest
from flywheel.records import Example
from flywheel.settings import REPOSITORY, settings
from tasks import curate
from tests.e2e.stack import heads

SEED, RATERS = 20260101, 4
SERVICES_KILLED = ("postgres", "mlflow", "serving", "airflow-api", "airflow-scheduler", "airflow-dags", "airflow-triggerer")
STAGES_KILLED = ("tasks.curate", "tasks.train")
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
    may_rest: tuple[str, ...] = ()  # what need not run, and so be killed, before the end
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
    while not done.is_set() or {n for n in names if n not in world.may_rest} - set(killed):
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


def watch(world: World, seen: Counter) -> None:
    """How many trainings ran at a time, looked at again and again."""
    while not world.over:
        seen[len(heads(world.home, "tasks.train"))] += 1
        time.sleep(0.5)


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
