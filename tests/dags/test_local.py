"""The local launcher: a stage as a subprocess."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException

from dags.launch.local import GRACE_SECONDS, LocalStage
from flywheel.settings import REPOSITORY, settings
from tests.dags.runs import context, write_manifest


def fake_stage(home, monkeypatch, code):
    """An interpreter that runs this code in the stage's place."""
    script = home / "python"
    (home / "stage.py").write_text(code)
    script.write_text(f"#!/bin/sh\nexec '{sys.executable}' '{home}/stage.py'\n")  # a #! line takes no path with a space
    script.chmod(0o755)
    monkeypatch.setenv("FLYWHEEL_STAGE_PYTHON", str(script))
    settings.cache_clear()
    return LocalStage(stage="ingest", task_id="ingest", retries=0)


def test_local_stage_returns_the_manifests_metrics(home, monkeypatch):
    write_manifest(home)
    assert fake_stage(home, monkeypatch, "print('hello')").execute(context())["metrics"] == {"records": 3}


def test_a_stage_that_ends_well_without_its_manifest_fails(home, monkeypatch):
    with pytest.raises(AirflowException, match="left no manifest"):
        fake_stage(home, monkeypatch, "").execute(context())
    write_manifest(home, run_dir="runs/flywheel/another")
    with pytest.raises(AirflowException, match="another"):
        fake_stage(home, monkeypatch, "").execute(context())
    write_manifest(home, outcome="skipped", reason="nothing to do")
    with pytest.raises(AirflowSkipException, match="nothing to do"):
        fake_stage(home, monkeypatch, "").execute(context())


@pytest.mark.parametrize(("code", "retried"), [(2, False), (3, False), (75, True), (143, True), (1, True)])
def test_exit_codes(home, monkeypatch, code, retried):
    with pytest.raises(AirflowException) as caught:
        fake_stage(home, monkeypatch, f"raise SystemExit({code})").execute(context())
    assert isinstance(caught.value, AirflowFailException) is not retried


def test_a_failure_says_cause_where_and_mend(home, monkeypatch):
    line = json.dumps({"stage": "ingest", "exit_code": 2, "error": "no such file", "where": "ingest.sources", "mend": "Name one."})
    code = f"import os, pathlib\npathlib.Path(os.environ['FLYWHEEL_TERMINATION_LOG']).write_text({line!r})\nraise SystemExit(2)"
    with pytest.raises(AirflowFailException, match=r"ingest\.sources: no such file\. Name one\."):
        fake_stage(home, monkeypatch, code).execute(context())


def test_killing_the_task_ends_the_whole_process_group_in_time(home, monkeypatch):

    stubborn = "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nos.fork()\nprint(os.getpid(), flush=True)\ntime.sleep(600)"
    operator = fake_stage(home, monkeypatch, stubborn)

    def execute():
        with suppress(AirflowException):
            operator.execute(context())

    thread = threading.Thread(target=execute)
    thread.start()
    time.sleep(3)
    assert operator._process is not None
    operator.on_kill()
    thread.join(10)
    assert GRACE_SECONDS < 5 and not thread.is_alive()  # Airflow's SIGKILL comes 5 s after its SIGTERM
    group = operator._process.pid
    assert not [p for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE and os.getpgid(p.pid) == group]


def test_the_stage_dies_with_its_task(home):
    write_manifest(home)
    code = (
        "import os, sys; from dags.launch.local import _die_with_parent; import subprocess;"
        "p = subprocess.Popen(['sleep', '600'], preexec_fn=_die_with_parent); print(p.pid, flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    child = int(parent.stdout.readline())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    for _ in range(100):
        if not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text().split()[2]:
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    pytest.fail("the child outlived its parent")
