"""A stage that hangs is noticed from within, told of, and by policy ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from flywheel.settings import REPOSITORY

HANGS = """
import sys, time
from flywheel import stage

def run(ctx):
    ctx.finish_on_sigterm = mode == "deaf"
    ctx.say("begun")
    time.sleep(6 if mode == "wakes" else 600)
    ctx.say("awake")

mode = sys.argv.pop()
stage.main(stage.Stage("housekeep", run))
"""


def hang(home, mode, policy):
    """A stage that falls silent; its exit code, its words, its termination message, and the marker."""
    home.mkdir()
    (home / "c.yaml").write_text("ingest: {sources: [{kind: docs, licence: x, consent: y}]}\n")
    (home / "end").touch()
    (home / "hang.py").write_text(HANGS)
    environment = {**os.environ, "FLYWHEEL_HOME": str(home), "PYTHONPATH": str(REPOSITORY), "FLYWHEEL_TERMINATION_LOG": str(home / "end")}
    environment |= {"FLYWHEEL_SILENT_MINUTES": "0.05", "FLYWHEEL_SILENT": policy}
    run = home / "store" / "runs" / "hand" / "1"
    command = [sys.executable, str(home / "hang.py"), "--config", str(home / "c.yaml"), "--run-dir", str(run), mode]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, start_new_session=True)
    marker = run / "housekeep" / "silent.json"
    return done.returncode, done.stdout + done.stderr, (home / "end").read_text(), json.loads(marker.read_text()) if marker.exists() else None


@pytest.mark.parametrize("mode", ["listens", "deaf"])
def test_by_policy_it_is_stopped_and_tried_again(home, mode):
    code, said, end, marker = hang(home, mode, "stop")
    assert code == 75, said  # retried
    assert "time.sleep(6 if mode" in said and "begun" in said and "awake" not in said
    assert "said nothing for 0.05 minutes and was stopped" in json.loads(end)["error"]
    assert marker["stopped"] and marker["stage"] == "housekeep" and "time.sleep" in marker["where"]


def test_else_it_is_only_told_of(home):
    code, said, _, marker = hang(home, "wakes", "tell")
    assert code == 0 and "awake" in said and "nothing was said for 0.05 minutes" in said
    assert marker["stopped"] is False
