"""The images, built and started here:  make test-cluster ONLY=tests/cluster/test_images.py   (a Docker engine, some minutes and gigabytes)

Where no registry can be reached, the base image must be here already. TORCH_INDEX and BUILD_OPTIONS reach the build as they do by hand.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import time
import uuid
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FAMILIES = sorted(path.parent.name for path in (ROOT / "images").glob("*/Dockerfile"))
TAG = os.environ.get("TAG", "dev")
SERVES_NOTHING = ["sleep", "120"]
START = {
    "airflow": ["sh", "-c", "airflow db migrate >/dev/null && exec airflow api-server --workers 1"],
    "data": SERVES_NOTHING, "features": SERVES_NOTHING, "train": SERVES_NOTHING, "worker": SERVES_NOTHING,
}  # fmt: skip
HEALTHY_SECONDS = 240


def docker(*arguments: str, check: bool = True) -> str:
    done = subprocess.run(["docker", *arguments], cwd=ROOT, capture_output=True, text=True)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


def logs(container: str) -> str:
    """Its last lines, of both streams."""
    done = subprocess.run(["docker", "logs", "--tail", "40", container], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout


def image(family: str) -> str:
    return f"local/flywheel/{family}:{TAG}"


@pytest.fixture(scope="module", autouse=True)
def engine():
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers")


@pytest.fixture(params=FAMILIES)
def family(request):
    """Each image, built from the tree as it is."""
    options = os.environ.get("BUILD_OPTIONS", "--network=host")
    done = subprocess.run(
        ["make", "--silent", "image", f"FAMILY={request.param}", f"TAG={TAG}", f"BUILD_OPTIONS={options}"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    return request.param


def state(container: str) -> str:
    found = json.loads(docker("inspect", container))[0]["State"]
    assert found["Running"], logs(container)
    return str(found["Health"]["Status"])


def test_builds_and_starts_alone_on_what_it_may_not_write(family, tmp_path):
    """No network, no right of root, no file of its own to write but in /tmp and its data: healthy all the same, and as who it should be."""
    (tmp_path / "password").write_text(uuid.uuid4().hex)
    (tmp_path / "password").chmod(0o444)
    tmp_path.chmod(0o755)  # pytest keeps it for this user alone, and the container is another
    name = f"flywheel-test-{uuid.uuid4().hex[:8]}"
    data = "/var/lib/postgresql" if family == "postgres" else "/scratch"
    docker(
        "run", "--detach", "--name", name, "--network", "none", "--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
        "--tmpfs", "/tmp", "--tmpfs", f"{data}:uid=1000,mode=0700", "--volume", f"{tmp_path}:/given:ro", "--health-interval", "2s",
        "--env", "POSTGRES_USER=flywheel", "--env", "POSTGRES_PASSWORD_FILE=/given/password", image(family), *START.get(family, []),
    )  # fmt: skip
    try:
        until = time.monotonic() + HEALTHY_SECONDS
        while state(name) != "healthy":
            assert time.monotonic() < until, logs(name)
            time.sleep(1)
        assert docker("exec", name, "id", "-u") == "1000"
        assert docker("exec", name, "cat", "/proc/1/comm") == "tini"
        for folder in ("/", "/app", "/opt", "/usr/local/bin"):
            assert "Read-only file system" in subprocess.run(["docker", "exec", name, "touch", f"{folder}/x"], capture_output=True, text=True).stderr or (
                family == "postgres" and folder == "/app"
            )
        began = time.monotonic()
        docker("stop", "--time", "60", name)
        assert json.loads(docker("inspect", name))[0]["State"]["ExitCode"] not in (137,), f"killed after {time.monotonic() - began:.0f} s"
    finally:
        docker("rm", "--force", name, check=False)


def test_a_stage_runs_in_its_image_with_no_network(family):
    """What each image is for begins to work: its heaviest libraries load, and the base model is in it."""
    commands = {
        "data": "import daft, dvc, ray, tasks.clean; from flywheel import base_model; print(base_model.identity('smollm2-135m-instruct').uri)",
        "train": "import torch, peft, bitsandbytes, tasks.train; from flywheel import base_model; print(base_model.identity('smollm2-135m-instruct').uri)",
        "serving": "import openvino_genai, mlflow, serving.app; from flywheel import embedding; print(embedding.folder('all-minilm-l6-v2').name)",
        "features": "import feast, tasks.features",
        "ui": "import streamlit, ui.client",
        "airflow": "import airflow, dags.launch.kubernetes",
        "worker": "import airflow, dags.launch.local",
    }
    if family not in commands:
        pytest.skip("nothing of ours runs in it")
    docker(
        "run", "--rm", "--network", "none", "--read-only", "--tmpfs", "/tmp", "--tmpfs", "/scratch:uid=1000", image(family), "python", "-c", commands[family]
    )


def test_is_as_small_as_its_page_says(family):
    """docs/images.md names each size, of a CPU build: within a tenth."""
    page = (ROOT / "docs" / "images.md").read_text()
    row = re.search(rf"^\| `{family}` \| ([\d.,]+) MB", page, re.M)
    assert row, f"docs/images.md does not name the size of {family}"
    said, is_now = float(row[1].replace(",", "")), int(docker("image", "inspect", "--format", "{{.Size}}", image(family))) / 1e6
    assert is_now <= said * 1.1, f"{is_now:.0f} MB, not {said:.0f}"


def test_the_whole_stack_comes_up_and_plays_the_demo(tmp_path):
    """`docker compose up --wait`, then both turns and the poisoned challenger, under a project of its own; then nothing is left."""
    if subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("docker compose is not installed")
    ports = {f"{name}_PORT": str(28000 + number) for number, name in enumerate(("AIRFLOW", "MLFLOW", "SERVING", "UI", "EXPORTER"))}
    command = ["docker", "compose", "--project-name", f"flywheel-test-{uuid.uuid4().hex[:8]}"]
    environment = {**os.environ, **ports, "TAG": TAG}
    try:
        subprocess.run([*command, "up", "--wait"], cwd=ROOT, env=environment, check=True)
        subprocess.run(
            [*command, "exec", "-T", "scheduler", "/opt/flywheel/bin/python", "-m", "flywheel", "demo", "--installed"], cwd=ROOT, env=environment, check=True
        )
        figures = subprocess.run([*command, "exec", "-T", "scheduler", "cat", "/scratch/demo.json"], cwd=ROOT, env=environment, check=True, capture_output=True)
        found = json.loads(figures.stdout)
        assert [found[turn]["verdict"]["verdict"] for turn in ("turn_1", "turn_2")] == ["promote", "promote"]
        assert found["poisoned"]["verdict"]["verdict"] != "promote"
    except subprocess.CalledProcessError:
        subprocess.run([*command, "logs", "--tail", "30"], cwd=ROOT, env=environment)
        raise
    finally:
        subprocess.run([*command, "down", "--volumes", "--timeout", "30"], cwd=ROOT, env=environment)
