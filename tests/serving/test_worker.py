"""The worker as a process: what a server leaves to it is sealed and told, and SIGTERM ends it after its step."""

import signal
import time

import pytest
from fastapi.testclient import TestClient

from flywheel import ledger
from flywheel.ledger.schema import feedback
from serving import worker
from tests.flywheel.ledger.conftest import give, sealed_lines
from tests.serving.processes import Server


def told() -> bool:
    with ledger.transaction() as db:
        return all(row.logged for row in db.execute(feedback.select()))


def test_what_servers_leave_to_it_is_sealed_and_told(database, mlflow_server):
    ids = {give(number) for number in range(3)}
    server = Server("serving.worker", {})
    try:
        server.wait("/healthz")
        until = time.monotonic() + 120
        while not (told() and sealed_lines()) and time.monotonic() < until:
            time.sleep(0.1)
        assert told() and {line["id"] for line in sealed_lines()} == ids
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
    finally:
        server.kill()


@pytest.mark.parametrize(("here", "count"), [("true", 1), ("false", 0)])
def test_a_server_does_it_unless_it_is_told_that_a_worker_does(database, home, behaviour, monkeypatch, here, count):
    from serving import app

    asked = []
    monkeypatch.setattr(worker, "steps", lambda: asked.append(1) or ())
    monkeypatch.setattr(app, "Reconciler", lambda _pool, _engine: type("Still", (), {"step": lambda self: None})())
    behaviour(feedback_steps=here)
    with TestClient(app.app):
        assert len(asked) == count


def test_a_step_that_hangs_is_named(monkeypatch):
    monkeypatch.setattr(worker, "ended", {"a": time.monotonic(), "b": time.monotonic() - worker.STALE_SECONDS - 1})
    assert worker.stale() == ["b"]
