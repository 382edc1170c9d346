"""The local launcher: a stage as a subprocess of the stages' environment, its lines in the task log as they come."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import tempfile
import time
from typing import Any

from airflow.sdk import BaseOperator

from dags.launch import base
from flywheel.settings import REPOSITORY, settings

GRACE_SECONDS = 3.5  # Airflow kills the task 5 s after SIGTERM; the group must be gone before
PR_SET_PDEATHSIG = 1
libc = ctypes.CDLL(None)


def _die_with_parent() -> None:
    """In the child: SIGTERM when this task's process dies, however it dies."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


class LocalStage(BaseOperator):
    """Runs `python -m tasks.<stage>` here."""

    ui_color = "#e8eef7"

    def __init__(self, *, stage: str, **options: Any) -> None:
        super().__init__(**options)
        self.stage = stage
        self._process: subprocess.Popen[str] | None = None

    def execute(self, context: Any) -> dict[str, Any]:
        """Start it, pass its lines on, judge its end."""
        python = settings().features_python if self.stage == "features" else settings().stage_python
        command = [python, "-m", f"tasks.{self.stage}", *base.arguments(self.stage, context)]
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("AIRFLOW", "_AIRFLOW"))}
        with tempfile.NamedTemporaryFile("r", prefix="flywheel-end-") as end:
            environment |= {"PYTHONPATH": str(REPOSITORY), "PYTHONUNBUFFERED": "1", "FLYWHEEL_TERMINATION_LOG": end.name}
            self._process = subprocess.Popen(
                command, cwd=REPOSITORY, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                text=True, errors="replace", start_new_session=True, preexec_fn=_die_with_parent,
            )  # fmt: skip
            assert self._process.stdout is not None
            for line in self._process.stdout:
                self.log.info("%s", line.rstrip())
            exit_code = self._process.wait()
            if exit_code:
                raise base.failed(self.stage, exit_code if exit_code > 0 else 128 - exit_code, end.read())
        return base.finished(self.stage, context)

    def on_kill(self) -> None:
        """End the whole process group: SIGTERM, a moment for the checkpoint, SIGKILL."""
        if self._process is None:
            return
        group = self._process.pid
        until = time.monotonic() + GRACE_SECONDS
        try:
            os.killpg(group, signal.SIGTERM)
            while time.monotonic() < until:
                self._process.poll()  # reap it, or the group never empties
                os.killpg(group, 0)
                time.sleep(0.05)
            os.killpg(group, signal.SIGKILL)
        except ProcessLookupError:
            return
