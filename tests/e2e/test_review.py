"""The whole way on a real Label Studio: pushed, annotated, the webhook knocks at a real service, and the next training set has it, once."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time

import httpx
import pytest

from flywheel import config, ledger, stage, store
from flywheel.records import Example
from flywheel.settings import REPOSITORY, settings
from tasks import curate, ingest, review
from tests.conftest import free_port
from tests.labelling import People, label_studio, offered


@pytest.fixture
def service(database, home, monkeypatch):
    """Serving without a model, and Label Studio; both know the webhook's secret."""
    token = secrets.token_hex(20)
    url, studio = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    home.mkdir(exist_ok=True)
    source = {"kind": "files", "path": str(home / "own.jsonl"), "licence": "CC0-1.0", "consent": "made here"}
    (home / "own.jsonl").write_text('{"instruction": "one", "output": "two"}\n')
    own = {"model": {"base": str(home / "no model")}, "ingest": {"sources": [source]}, "curate": {"min_batch": 1, "debounce_seconds": 0}}
    (home / "config.yaml").write_text(json.dumps(own))
    changes = {"SERVING_URL": url, "LABEL_STUDIO_URL": studio, "LABEL_STUDIO_TOKEN": token, "LABEL_STUDIO_SECRET": secrets.token_hex(32)}
    for name, value in {**changes, "CONFIG": str(home / "config.yaml")}.items():
        monkeypatch.setenv(f"FLYWHEEL_{name}", value)
    settings.cache_clear()
    command = [sys.executable, "-m", "uvicorn", "serving.app:app", "--host", "127.0.0.1", "--port", url.rsplit(":", 1)[1], "--no-access-log"]
    with label_studio(studio, token), (home / "serving.log").open("wb") as log:
        started = subprocess.Popen(command, cwd=REPOSITORY, env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, stdout=log, stderr=log)
        try:
            until = time.monotonic() + 180
            while time.monotonic() < until:
                try:
                    if httpx.get(f"{url}/healthz", timeout=2).is_success:
                        break
                except httpx.HTTPError:
                    time.sleep(0.2)
            yield People(studio, token)
        finally:
            started.send_signal(signal.SIGKILL)
            started.wait()


def turn(home, name):
    """review, curate, ingest; what the next training set learned from people."""
    conf = config.load(settings().config)
    done = {}
    for one in (review, curate, ingest):
        ledger.seal_segments()
        done[one.STAGE.name] = stage.execute(one.STAGE, conf, store.join(settings().store, "runs", "flywheel", name))
    lines = done["ingest"].outputs["records"].fetch(home / "cache").read_bytes().splitlines()
    return done["review"].metrics, [e for e in map(Example.model_validate_json, lines) if e.feedback_ids]


def test_from_a_doubtful_answer_to_the_next_training_set(service, home):
    edited, approved = offered(2, "it is rather")
    conf = config.load(settings().config)
    assert stage.execute(review.STAGE, conf, store.join(settings().store, "runs", "flywheel", "0")).metrics["pushed"] == 2
    with ledger.transaction() as db:
        project = db.exec_driver_sql("select project from label_projects").scalar_one()
    tasks = service.tasks(project)
    service.annotate(tasks[edited.id]["id"], "edit", edited="it is precisely this")
    service.annotate(tasks[approved.id]["id"], "approve")
    until = time.monotonic() + 120
    while time.monotonic() < until:  # nobody pulls: the webhook alone
        with ledger.transaction() as db:
            states = dict(db.exec_driver_sql("select id, state from review").all())
        if "waiting" not in states.values():
            break
        time.sleep(0.2)
    assert states == {edited.id: "edit", approved.id: "approve"}, (home / "serving.log").read_text()[-3000:]
    first, learned = turn(home, "1")
    assert (first["decided"], first["pushed"]) == (0, 0)
    assert "it is precisely this" in {e.output for e in learned}
    second, again = turn(home, "2")
    assert (second["decided"], second["pushed"], second["annotations"]) == (0, 0, 0)
    assert sorted(e.id for e in again) == sorted(e.id for e in learned) and len({e.id for e in learned}) == len(learned)
    assert len(service.tasks(project)) == 2
