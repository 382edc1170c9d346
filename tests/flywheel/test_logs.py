"""Log lines as JSON: of a real stage that fails, and of a request."""

import contextvars
import io
import json
import logging
import os
import subprocess
import sys

import pytest

from flywheel import logs
from flywheel.settings import REPOSITORY, settings


def run_stage(home, log_format):
    environment = {**os.environ, "FLYWHEEL_HOME": str(home), "FLYWHEEL_LOG_FORMAT": log_format}
    command = [sys.executable, "-m", "tasks.clean", "--config", "config/flywheel.yaml", "--run-dir", str(home / "store" / "runs" / "hand" / "7")]
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True).stdout.splitlines()


def test_a_stage_says_stage_and_run_on_every_line_and_text_stays_text(home):
    lines = [json.loads(line) for line in run_stage(home, "json")]
    assert lines and all(line["stage"] == "clean" and line["run"] == "7" and line["logger"] == "flywheel" for line in lines)
    assert lines[-1]["level"] == "error" and lines[-1]["message"].startswith("failed: ") and lines[-1]["time"].endswith("+00:00")
    assert run_stage(home, "text")[-1] == lines[-1]["message"]


@pytest.fixture
def restored():
    loggers = [logging.getLogger(name) for name in ("", "flywheel", "uvicorn", "uvicorn.error", "uvicorn.access")]
    before = [(logger, logger.level, logger.handlers[:], logger.propagate) for logger in loggers]
    yield
    for logger, level, handlers, propagate in before:
        logger.setLevel(level)
        logger.handlers[:], logger.propagate = handlers, propagate


def test_what_is_bound_stays_with_its_request_and_uvicorn_and_tracebacks_are_one_line(home, monkeypatch, restored):
    monkeypatch.setenv("FLYWHEEL_LOG_FORMAT", "json")
    settings.cache_clear()
    stream = io.StringIO()
    logs.setup("%(message)s", stream)

    def request():
        logs.bind(request="abc")
        try:
            raise ValueError("no\nluck")
        except ValueError:
            logging.getLogger("uvicorn.error").exception("it broke: %s", "ü")

    contextvars.copy_context().run(request)
    logging.getLogger("flywheel.serving").info("outside")
    first, second = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert first["request"] == "abc" and first["message"] == "it broke: ü" and "ValueError: no\nluck" in first["error"]
    assert "request" not in second and second["level"] == "info"
