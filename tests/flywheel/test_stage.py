"""The contract, seen from outside: a stage as a process."""

import json
import os
import subprocess
import sys

import pytest

from flywheel import manifest
from flywheel.errors import ContractError, from_os_error
from flywheel.settings import REPOSITORY


def run(stage, home, *arguments, config=None, **environment):
    command = [
        sys.executable,
        "-m",
        f"tasks.{stage}",
        "--config",
        str(config or home / "config.yaml"),
        "--run-dir",
        str(home / "store/runs/hand/1"),
        *arguments,
    ]
    return subprocess.run(command, cwd=REPOSITORY, env={**os.environ, "FLYWHEEL_HOME": str(home), **environment}, capture_output=True, text=True)


@pytest.fixture
def ready(home):
    home.mkdir()
    rows = [{"instruction": f"Say {i}", "output": f"The number is {i}."} for i in range(60)]
    (home / "records.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (home / "config.yaml").write_text(f"ingest: {{sources: [{{kind: files, path: '{home}/records.jsonl', licence: x, consent: y}}]}}")
    return home


def test_done_then_cached_then_changed(ready):
    first = run("ingest", ready)
    assert first.returncode == 0, first.stdout + first.stderr
    written = manifest.read(str(ready / "store/runs/hand/1/ingest/manifest.json"))
    assert written.outputs["records"].rows == 60 and written.cost.cpu_seconds > 0 and not written.cached_from
    again = run("ingest", ready)
    assert "done already" in again.stdout
    assert manifest.read(str(ready / "store/runs/hand/1/ingest/manifest.json")).cached_from
    with open(ready / "records.jsonl", "a") as file:
        file.write('\n{"instruction": "new", "output": "record"}')
    assert "done already" not in run("ingest", ready).stdout
    assert manifest.read(str(ready / "store/runs/hand/1/ingest/manifest.json")).outputs["records"].rows == 61


def test_a_damaged_output_is_not_a_cache_hit(ready):
    run("ingest", ready)
    (ready / "store/runs/hand/1/ingest/attempt-1/records.jsonl").unlink()
    assert "done already" not in run("ingest", ready).stdout


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        ("", 3, "empty"),
        ("{broken\n{worse", 3, "no usable record"),
        ("PAR1....", 3, "it is Parquet"),
    ],
)
def test_bad_files_end_in_a_sentence_and_the_contract_code(ready, tmp_path, content, code, words):
    (ready / "records.jsonl").write_text(content)
    log = tmp_path / "termination"
    log.touch()
    done = run("ingest", ready, FLYWHEEL_TERMINATION_LOG=str(log))
    assert done.returncode == code
    assert words in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert json.loads(log.read_text())["exit_code"] == code
    assert not (ready / "store/runs/hand/1/ingest/manifest.json").exists()


def test_missing_upstream_and_unknown_key(ready):
    done = run("clean", ready)
    assert done.returncode == 2 and "has not finished" in done.stdout + done.stderr
    done = run("ingest", ready, "--set", "ingest.sorces=1")
    assert done.returncode == 2 and "ingest.sorces" in done.stdout + done.stderr


def test_a_changed_upstream_output_is_refused(ready):
    run("ingest", ready)
    path = ready / "store/runs/hand/1/ingest/attempt-1/records.jsonl"
    path.write_text(path.read_text().replace("number", "numbre"))
    done = run("clean", ready)
    assert done.returncode == 2 and "not what the manifest recorded" in done.stdout + done.stderr


def test_another_runs_manifest_is_refused(ready):
    run("ingest", ready)
    with pytest.raises(ContractError):
        manifest.read_for(str(ready / "store/runs/hand/1"), "clean")
    target = ready / "store/runs/hand/2/ingest"
    target.mkdir(parents=True)
    (target / "manifest.json").write_text((ready / "store/runs/hand/1/ingest/manifest.json").read_text())
    with pytest.raises(ContractError, match="hand/1"):
        manifest.read_for(str(ready / "store/runs/hand/2"), "ingest")


def test_a_full_disk_is_transient():
    assert from_os_error(OSError(28, "No space left on device", "/x")).exit_code == 75
    assert from_os_error(FileNotFoundError(2, "No such file", "/x")).exit_code == 2
