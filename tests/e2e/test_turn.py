"""The real thing on a tiny slice: PostgreSQL, MLflow, Airflow and serving turn the wheel, lose a process, and turn again."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import pytest

from tests.e2e.stack import ROOT, SERVICES, free_ports, kill, processes, running

STAGES = ["ingest", "clean", "tokenize", "dataset", "train", "parity", "evaluate", "gate", "register", "rollout"]


@pytest.fixture(scope="module")
def stack():
    """A whole stack of its own."""
    records = [
        {
            "instruction": f"What is {a} plus {b}?",
            "input": "",
            "output": f"The sum of {a} and {b} is {a + b}, which is {'even' if (a + b) % 2 == 0 else 'odd'}.",
        }
        for a in range(3, 15)
        for b in range(20, 30)
    ]
    lines = [json.dumps(r) for r in records]
    lines[5:5] = ["{broken", '{"instruction": 5}']
    config = f"""
extends: {json.dumps(str(ROOT / "config" / "demo.yaml"))}
ingest: {{sources: [{{kind: files, path: "HOME/records.jsonl", licence: CC0-1.0, consent: made here}}], reserve: 0}}
clean: {{steps: [unicode, length, exact_duplicates, decontamination]}}
train: {{max_examples: 64, checkpoint_seconds: 5, min_new_examples: 0}}
evaluate: {{examples: 12, generate: 4, max_new_tokens: 8, corrections: 4, suites: []}}
curate: {{min_batch: 4}}
"""
    with running(config, "\n".join(lines)) as made:
        yield made.environment, made.flywheel, made.home


def manifests(home: Path) -> dict[str, dict]:
    """Of the newest run of the flywheel DAG."""
    runs = sorted((home / "store" / "runs" / "flywheel").iterdir(), key=lambda p: p.stat().st_mtime)
    return {s: json.loads((runs[-1] / s / "manifest.json").read_text()) for s in STAGES}


def test_turns_and_repeats_from_cache(stack):
    _environment, flywheel, home = stack
    flywheel("turn")
    first = manifests(home)
    assert first["ingest"]["metrics"]["rejected"] == 2
    verdict = json.loads((home / "store" / first["gate"]["outputs"]["verdict"]["uri"]).read_text())
    assert verdict["verdict"] == "promote", verdict
    flywheel("turn")  # what the first turn froze and was judged on is new to clean; it comes to the same
    assert [s for s, m in manifests(home).items() if not m["cached_from"]] == ["clean"]
    report = home / "comment.md"  # as CI does it: a config by name, and a comment for the pull request
    flywheel("turn", "--no-unpause", "--config", str(home / "config.yaml"), "--deadline", "20", "--refusal-fails", "--comment", str(report))
    second = manifests(home)
    assert {s: bool(m["cached_from"]) for s, m in second.items()} == dict.fromkeys(STAGES, True)
    assert second["train"]["outputs"] == first["train"]["outputs"]
    text = report.read_text()
    assert text.startswith("### ✅ promote\n\nThe new version replaces the base model") and "| log&#95;loss |" in text
    assert "rules kept</summary>" in text and "Trained with the code of this commit." in text and "/report.html>)" in text


def test_a_refusal_a_run_that_fails_a_wrong_token_and_a_deadline_are_exit_codes(stack):
    environment, flywheel, home = stack
    report = home / "comment.md"
    dear = flywheel("turn", "--set", "gate.max_cost=0", "--refusal-fails", "--comment", str(report), check=False)
    assert dear.returncode == 3 and "the gate refused the new version" in dear.stderr, dear.stdout + dear.stderr
    assert report.read_text().startswith("### ⛔ refuse") and "is registered and not rolled out: the gate says refuse" in report.read_text()
    nowhere = "ingest.sources=[{kind: files, path: /nowhere.jsonl, licence: none, consent: none}]"
    failed = flywheel("turn", "--set", nowhere, "--comment", str(report), check=False)
    assert failed.returncode == 3 and "the run failed at ingest. Its log is at http" in failed.stderr, failed.stdout + failed.stderr
    assert report.read_text().startswith("### The turn did not succeed\n\nthe run failed at ingest")
    late = flywheel("turn", "--set", nowhere, "--deadline", "0.01", check=False)
    assert late.returncode == 75 and "did not end within 1 s and goes on" in late.stderr, late.stderr
    command = [sys.executable, "-m", "flywheel", "turn"]
    stranger = subprocess.run(command, cwd=ROOT, env=environment | {"FLYWHEEL_AIRFLOW_TOKEN": "nobody"}, capture_output=True, text=True, timeout=120)
    assert stranger.returncode == 2 and "does not accept these credentials" in stranger.stderr and "Traceback" not in stranger.stderr


def test_feedback_is_kept_once_although_serving_and_database_are_killed(stack):
    environment, flywheel, home = stack
    with httpx.Client(base_url=environment["FLYWHEEL_SERVING_URL"], timeout=60) as client:
        assert client.get("/readyz").json()["model_version"] == "1"
        sent = []
        for number in range(6):
            answer = client.post("/v1/generate", json={"instruction": f"What is {number} plus 50?", "max_new_tokens": 4}).json()
            body = {
                "answer_id": answer["answer_id"],
                "idempotency_key": str(uuid.uuid4()),
                "thumb": "down",
                "correction": f"It is {number + 50}.",
                "consent": True,
            }
            assert client.post("/v1/feedback", json=body).status_code == 201
            assert client.post("/v1/feedback", json=body).status_code == 200
            sent.append(answer["answer_id"])
    kill(home, "serving")
    kill(home, "postgres")
    time.sleep(1)
    flywheel("up")
    until = time.monotonic() + 180
    found: list[str] = []
    while time.monotonic() < until and len(found) < len(sent):
        segments = sorted((home / "store" / "feedback" / "segments").glob("*.jsonl"))
        found = [json.loads(line)["answer_id"] for s in segments for line in s.read_text().splitlines()]
        time.sleep(1)
    assert sorted(found) == sorted(sent)


def test_a_turn_survives_the_death_of_every_process(stack):
    environment, flywheel, home = stack
    url = environment["FLYWHEEL_AIRFLOW_URL"]
    started = flywheel("turn", "--no-wait", "--set", "seed=5", "--set", "train.checkpoint_seconds=0.1").stdout.split("/runs/")[1].strip()
    victims = {
        "ingest": ["airflow-api"],
        "clean": ["airflow-dags"],
        "tokenize": ["airflow-triggerer"],
        "train": ["tasks.train", "ui"],
        "evaluate": ["airflow-scheduler", "mlflow"],
        "gate": ["postgres"],
        "register": ["serving"],
        "rollout": ["supervisord"],
    }
    until = time.monotonic() + 900
    state = ""
    with httpx.Client(base_url=url, timeout=30) as client:
        token = ""
        while time.monotonic() < until and state != "success":
            time.sleep(0.3)
            running = {word.removeprefix("tasks.") for _p, _s, command in processes(home) for word in command if word.startswith("tasks.")}
            for stage in running & set(victims):
                below = [p for q, service, _c in processes(home) if service == "supervisord" for p in q.children(recursive=True)]
                for name in victims.pop(stage):
                    kill(home, name)
                if stage == "rollout":
                    flywheel("up")
                    assert not [p for p in below if p.is_running()]  # none of the killed manager's, whatever it calls itself
            try:
                token = token or client.get("/auth/token").json()["access_token"]
                reply = client.get(f"/api/v2/dags/flywheel/dagRuns/{started}", headers={"Authorization": f"Bearer {token}"})
                state = reply.json().get("state", "")
            except (httpx.HTTPError, ValueError):
                continue
            if state == "failed":  # what an operator does in the UI: clear what failed
                time.sleep(5)
                client.post(
                    "/api/v2/dags/flywheel/clearTaskInstances",
                    headers={"Authorization": f"Bearer {token}"},
                    json={"dag_run_id": started, "only_failed": True, "dry_run": False},
                )
    assert not victims, f"not killed: {victims}"
    assert state == "success"
    assert set(manifests(home)) == set(STAGES)
    segments = (home / "store" / "feedback" / "segments").glob("*.jsonl")
    ids = [json.loads(line)["id"] for s in segments for line in s.read_text().splitlines()]
    assert len(ids) == len(set(ids)) == 6


def test_second_up_is_harmless_and_a_taken_port_is_named(stack):
    environment, flywheel, _home = stack
    flywheel("up")
    foreign = socket.socket()
    foreign.bind(("127.0.0.1", 0))
    foreign.listen()
    url = f"http://127.0.0.1:{foreign.getsockname()[1]}"
    other = {**environment, "FLYWHEEL_HOME": environment["FLYWHEEL_HOME"] + " 2"}
    other |= {f"FLYWHEEL_{n.upper()}_URL": f"http://127.0.0.1:{p}" for n, p in zip(SERVICES[1:], free_ports(len(SERVICES) - 1), strict=True)}
    other |= {"FLYWHEEL_MLFLOW_URL": url, "FLYWHEEL_DATABASE_URL": f"postgresql+psycopg://flywheel@127.0.0.1:{free_ports(1)[0]}/flywheel"}
    done = subprocess.run([sys.executable, "-m", "flywheel", "up"], cwd=ROOT, env=other, capture_output=True, text=True, timeout=900)
    assert done.returncode == 2, done.stdout + done.stderr
    assert str(foreign.getsockname()[1]) in " ".join((done.stdout + done.stderr).split())
