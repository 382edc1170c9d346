"""SIGKILL of a replica, of MLflow, of the database and of Redis, under load: each has the effect that docs/serving.md says, and no other.

pytest -s -m slow tests/serving/test_kills.py
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
import uuid
from collections import Counter

import httpx
import psutil
import pytest
import sqlalchemy as sa
import yaml

from flywheel import ledger, registry
from flywheel.laptop import postgres
from flywheel.ledger.schema import answers, feedback
from flywheel.settings import REPOSITORY, settings
from serving.auth import new_key
from tests.conftest import free_port
from tests.e2e.chaos import World
from tests.serving.registered import two_versions
from tests.serving.test_pool import adapter  # noqa: F401

REPLICAS = ("serving", "serving-2")
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not shutil.which("redis-server"), reason="Redis is not installed")]


class Replicas(World):
    """With two whole servers and a Redis."""

    def command(self, name):
        if name == "redis":
            return ["redis-server", "--port", str(self.ports[name]), "--bind", "127.0.0.1", "--save", ""]
        if name in REPLICAS:
            return [sys.executable, "-m", "serving", "--port", str(self.ports[name])]
        return super().command(name)

    def kill(self, name):
        """-9 for PostgreSQL too, which is many processes, each with a group of its own."""
        process = self.running.pop(name)
        for each in (psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)):
            try:
                each.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        process.wait()
        return True


@pytest.fixture
def world(tiny_home, tiny_model, adapter, tmp_path, monkeypatch, behaviour):  # noqa: F811
    ports = {name: free_port() for name in ("postgres", "mlflow", "redis", *REPLICAS)}
    monkeypatch.setenv("FLYWHEEL_DATABASE_URL", f"postgresql+psycopg://flywheel@127.0.0.1:{ports['postgres']}/flywheel")
    monkeypatch.setenv("FLYWHEEL_MLFLOW_URL", f"http://127.0.0.1:{ports['mlflow']}")
    settings.cache_clear()
    postgres.initialise(tiny_home / "postgres")
    loud, entry = new_key("loud", ["generate", "feedback", "metrics"])
    slow, other = new_key("slow", ["generate"])
    environment = {
        **os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true",
        "FLYWHEEL_SERVING_AUTH": "required", "FLYWHEEL_SERVING_KEYS": yaml.safe_dump([entry, {**other, "tier": "small"}]),
        "FLYWHEEL_SERVING_LIMITS_URL": f"redis://127.0.0.1:{ports['redis']}",
        "FLYWHEEL_SERVING_RATE_LIMITS": json.dumps({"standard": "1000000/minute", "small": "4/minute"}),
    }  # fmt: skip
    made = Replicas(tiny_home, ports, environment)
    made.keys = {"loud": {"authorization": f"Bearer {loud}"}, "slow": {"authorization": f"Bearer {slow}"}}
    made.start("postgres")
    made.wait_for_database()
    made.start("mlflow")
    made.wait_for("mlflow", "/health")
    two_versions(tiny_model, adapter, tmp_path)
    for name in ("redis", *REPLICAS):
        made.start(name)
    for name in REPLICAS:
        made.wait_for(name, "/readyz")
    yield made
    for name in list(made.running):
        made.kill(name)


class People:
    """Six who ask and say what they think, three at each replica, and never ask the same again. What came of it, by what was dead then."""

    def __init__(self, world):
        self.world, self.over, self.phase, self.lock = world, threading.Event(), "calm", threading.Lock()
        self.told, self.acknowledged, self.answered, self.versions = Counter(), set(), set(), Counter()
        self.threads = [threading.Thread(target=self._ask, args=(REPLICAS[n % 2],)) for n in range(6)]
        for thread in self.threads:
            thread.start()

    def _ask(self, replica):
        with httpx.Client(base_url=f"http://127.0.0.1:{self.world.ports[replica]}", timeout=60, headers=self.world.keys["loud"]) as http:
            while not self.over.is_set():
                reply = self._send(http, replica, "/v1/generate", {"instruction": uuid.uuid4().hex, "max_new_tokens": 4})
                if reply is None:
                    continue
                with self.lock:
                    self.answered.add(reply["answer_id"])
                    self.versions[self.phase, reply["model_version"]] += 1
                body = {"answer_id": reply["answer_id"], "idempotency_key": uuid.uuid4().hex, "thumb": "up"}
                if self._send(http, replica, "/v1/feedback", body):
                    with self.lock:
                        self.acknowledged.add(body["idempotency_key"])

    def _send(self, http, replica, path, body):
        phase = self.phase
        try:
            reply = http.post(path, json=body)
            status = reply.status_code
            assert status != 503 or int(reply.headers["retry-after"]) >= 1
        except httpx.HTTPError:
            reply, status = None, "no answer"
            time.sleep(0.1)
        with self.lock:
            if phase == self.phase:  # one that spans two phases says nothing of either
                self.told[phase, replica, status] += 1
        return reply.json() if reply is not None and reply.status_code in (200, 201) else None

    def of(self, phase):
        """The statuses of a phase, by replica."""
        return {name: {status for (p, replica, status), _ in self.told.items() if (p, replica) == (phase, name)} for name in REPLICAS}

    def during(self, phase, victim="", seconds=6.0):
        """A phase that begins with the death of somebody."""
        self.phase = phase
        if victim:
            self.world.kill(victim)
        time.sleep(seconds)
        self.phase = f"after {phase}"

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


def metric(world, replica, name):
    text = httpx.get(f"http://127.0.0.1:{world.ports[replica]}/metrics", headers=world.keys["loud"]).text
    return next(float(line.split()[-1]) for line in text.splitlines() if line.startswith(f"{name} "))


def limited(world):
    """What four requests at each replica get from a caller who has four a minute."""
    return Counter(httpx.get(f"http://127.0.0.1:{world.ports[REPLICAS[n % 2]]}/v1/models", headers=world.keys["slow"]).status_code for n in range(8))


def well(world):
    """Wait until both replicas answer and take feedback again."""
    for name in REPLICAS:
        world.wait_for(name, "/readyz")
        until = time.monotonic() + 120
        while time.monotonic() < until:
            reply = httpx.post(
                f"http://127.0.0.1:{world.ports[name]}/v1/generate", json={"instruction": "well?", "max_new_tokens": 1, "cache": False}, headers=world.keys["loud"], timeout=60
            )  # fmt: skip
            if reply.status_code == 200:
                break
            time.sleep(0.2)
        else:
            raise AssertionError(f"{name} does not answer")


def test_each_death_has_its_documented_effect_and_no_other(world):
    people = People(world)
    try:
        people.during("nothing")
        assert limited(world) == {200: 4, 429: 4}  # counted together

        people.during("redis", "redis")
        assert limited(world) == {200: 8} and all(metric(world, name, "flywheel_limits_unavailable_total") > 0 for name in REPLICAS)
        world.start("redis")
        until = time.monotonic() + 60
        while limited(world)[429] == 0 and time.monotonic() < until:
            time.sleep(0.2)
        assert limited(world)[429] > 0

        people.during("mlflow", "mlflow", 8)
        world.start("mlflow")
        world.wait_for("mlflow", "/health")
        registry.promote(2, "test", "better")
        until = time.monotonic() + 120
        while {httpx.get(f"http://127.0.0.1:{world.ports[name]}/readyz").json()["model_version"] for name in REPLICAS} != {"2"} and time.monotonic() < until:
            time.sleep(0.2)

        people.during("replica", "serving-2")
        world.start("serving-2")
        well(world)

        people.phase = "the database dies"  # what is committed at that moment is answered
        world.kill("postgres")
        people.during("database")
        world.start("postgres")
        world.wait_for_database()
        well(world)
        people.during("at the end")
    finally:
        people.stop()
    for (phase, replica, status), count in sorted(people.told.items(), key=str):
        if not phase.startswith("after"):
            print(f"{phase} dead: {replica} answered {status} {count} times")
    fine = {200, 201}
    for phase in ("nothing", "redis", "mlflow", "at the end"):
        assert people.of(phase) == dict.fromkeys(REPLICAS, fine), phase
    assert {version for phase, version in people.versions if phase == "mlflow"} == {"1"}  # the last known state
    assert {version for phase, version in people.versions if phase == "at the end"} == {"2"}  # and the new one when it was back
    assert people.of("replica")["serving"] == fine and "no answer" in people.of("replica")["serving-2"]
    assert people.of("database") == {name: {503} for name in REPLICAS}
    assert {(replica, status) for _, replica, status in people.told if status not in (*fine, 503)} == {("serving-2", "no answer")}
    with ledger.transaction() as db:
        keys = db.execute(sa.select(feedback.c.idempotency_key)).scalars().all()
        ids = set(db.execute(sa.select(answers.c.id)).scalars())
    assert len(keys) == len(set(keys)) and people.acknowledged <= set(keys) and people.answered <= ids
    print(f"{len(people.answered)} answers and {len(people.acknowledged)} feedback records were acknowledged; the ledger has each")
    world.wait_for("mlflow", "/health")
    until = time.monotonic() + 1500  # thousands of records, one after another
    while time.monotonic() < until:
        with ledger.transaction() as db:
            owed = db.execute(sa.select(sa.func.count()).where(feedback.c.logged.is_(None))).scalar_one()
        if not owed:
            break
        time.sleep(1)
    assert owed == 0  # MLflow is told what it missed
    told = Counter(world.assessments())
    assert len(told) == len(keys) and set(told.values()) == {1}
