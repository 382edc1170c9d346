"""A trial of a version on people, for real: registry, ledger, a serving process with its engine, the stage `rollout`, and people who ask.

pytest -s -m slow tests/serving/test_canary.py
"""

import json
import random
import subprocess
import sys
import threading
import time
import uuid
from datetime import UTC, datetime

import httpx
import pytest

from flywheel import ledger, manifest, registry, store
from flywheel.manifest import Manifest
from flywheel.registry import Desired
from flywheel.settings import REPOSITORY, settings
from serving.pool import Pool
from tests.serving.processes import serve
from tests.serving.registered import two_versions
from tests.serving.test_pool import Named, adapter  # noqa: F401

SHARE = 0.25


@pytest.fixture
def versions(database, mlflow_server, tiny_home, tiny_model, adapter, tmp_path):  # noqa: F811
    """1 is the champion, 2 the gate's choice."""
    two_versions(tiny_model, adapter, tmp_path)


class People:
    """Forty people who ask all the while and say what they think; half of them are known by a session only. Keeps who got what, and when."""

    def __init__(self, url, dislike):
        self.url, self.dislike, self.over = url, dislike, threading.Event()
        self.names = [f"person {n}" for n in range(40)]
        self.seen = {name: [] for name in self.names}  # (time, version or "failed")
        self.threads = [threading.Thread(target=self._ask, args=(self.names[n::5],)) for n in range(5)]
        for thread in self.threads:
            thread.start()

    def _ask(self, names):
        with httpx.Client(base_url=self.url, timeout=60) as http:
            while not self.over.is_set():
                for number, name in enumerate(names):
                    who = {"headers": {"x-session-id": name}} if number % 2 else {}
                    body = {"instruction": "hi", "max_new_tokens": 6, "cache": False, "user": "anonymous" if number % 2 else name}
                    reply = http.post("/v1/generate", json=body, **who)
                    version = reply.json()["model_version"] if reply.status_code == 200 else "failed"
                    self.seen[name].append((time.time(), version))
                    if version != "failed":
                        thumb = "down" if random.random() < (0.9 if version == self.dislike else 0.1) else "up"
                        said = {"answer_id": reply.json()["answer_id"], "idempotency_key": uuid.uuid4().hex, "thumb": thumb, "user": name}
                        assert http.post("/v1/feedback", json=said).status_code == 201

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


def roll_out(**conf):
    """`python -m tasks.rollout` after a gate that said promote."""
    run = store.join(settings().store, "runs", "flywheel", "night")
    store.write_bytes(store.join(run, "gate", "verdict.json"), json.dumps({"verdict": "promote", "reason": "better", "approval": "no"}).encode())
    verdict = manifest.describe(settings().home / "store" / "runs" / "flywheel" / "night" / "gate" / "verdict.json", "runs/flywheel/night/gate/verdict.json")
    now = datetime.now(UTC)
    for stage, outputs, metrics in (("gate", {"verdict": verdict}, {}), ("register", {}, {"version": 2})):
        done = Manifest(stage=stage, run_dir=store.relative(run), attempt=1, cache_key="", outputs=outputs, metrics=metrics, started=now, ended=now)
        manifest.write(done, run)
    sets = [word for name, value in conf.items() for word in ("--set", f"rollout.{name}={value}")]
    command = [sys.executable, "-m", "tasks.rollout", "--config", settings().config, "--run-dir", run, *sets]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)


def chosen(people, share=SHARE):
    """Whom this share gives the challenger, by serving's own rule."""
    pool = Pool()
    for name in ("1", "2"):
        pool.put(Named(name))
    pool.lead("1")
    pool.desired = Desired(champion=1, challenger=2, stage="canary", share=share, lease_until=9e12)
    return {name for name in people.names if pool.route(name) == "2"}


def turns(seen):
    """The versions that somebody got, one after another, each named once for as long as they kept it."""
    return [version for (_, version), (_, before) in zip(seen, [(0.0, ""), *seen], strict=False) if version != before]


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["failing", "slower", "worse"])
def test_a_bad_version_is_taken_back_from_the_few_who_had_it(fault, versions, behaviour, monkeypatch):
    with serve("tests.serving.faulty", FAULTS=json.dumps({"2": fault} if fault != "worse" else {}), FLYWHEEL_SERVING_RATE_LIMITS="{}") as server:
        monkeypatch.setenv("FLYWHEEL_SERVING_URL", server.url)
        people = People(server.url, dislike="2" if fault == "worse" else None)
        try:
            done = roll_out(shadow_seconds=0, steps=f"[{SHARE},1.0]", step_answers=10_000, trial_seconds=300)
            returned = next(e for e in ledger.list_events() if e["action"] == "return")
            time.sleep(5)
        finally:
            people.stop()
    assert done.returncode == 3 and "taken back" in done.stdout + done.stderr, done.stdout + done.stderr
    touched = {name: [at for at, version in seen if version in ("2", "failed")] for name, seen in people.seen.items()}
    assert {name for name, times in touched.items() if times} == chosen(people), returned
    for name, seen in people.seen.items():
        bad = "failed" if fault == "failing" else "2"
        assert turns(seen) == (["1", bad, "1"] if touched[name] else ["1"]), (name, turns(seen))
    first, last = min(min(times) for times in touched.values() if times), max(max(times) for times in touched.values() if times)
    answers, all_answers = sum(map(len, touched.values())), sum(first <= at <= last for seen in people.seen.values() for at, _ in seen)
    after = last - datetime.fromisoformat(str(returned["at"])).timestamp()
    print(f"{fault}: {returned['detail']['reason']}; {answers} of {all_answers} answers touched, {last - first:.1f} s, {after:.1f} s after the breach")
    assert after < 60 and registry.alias("champion") == 1 and not registry.desired().live


@pytest.mark.slow
def test_a_healthy_version_reaches_everybody_and_nobody_goes_back_and_forth(versions, behaviour, monkeypatch):
    with serve(module="serving", FLYWHEEL_SERVING_RATE_LIMITS="{}") as server:
        monkeypatch.setenv("FLYWHEEL_SERVING_URL", server.url)
        people = People(server.url, dislike=None)
        try:
            done = roll_out(shadow_seconds=5, steps=f"[0.05,{SHARE},1.0]", step_seconds=5, step_answers=30, trial_seconds=600)
            time.sleep(5)
        finally:
            people.stop()
    assert done.returncode == 0, done.stdout + done.stderr
    events = [(e["action"], e["detail"].get("share")) for e in reversed(ledger.list_events())]
    assert events[1:] == [("shadow", 0.0), ("canary", 0.05), ("canary", SHARE), ("canary", 1.0), ("promote", None)]
    assert {tuple(turns(seen)) for seen in people.seen.values()} == {("1", "2")}
    assert registry.alias("champion") == 2
    print(f"healthy: {sum(map(len, people.seen.values()))} answers, none failed")
