"""The images and the compose file, as far as reading them goes: hadolint finds nothing, and each keeps the rules of docs/images.md.

That they build, start and turn the flywheel is for tests/cluster/test_images.py, which needs a Docker engine.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "images").glob("*/*Dockerfile"))
FAMILIES = sorted(path.parent.name for path in FILES if path.name == "Dockerfile")
STAGES = ("data", "train")


def dockerfile(family: str) -> str:
    return (ROOT / "images" / family / "Dockerfile").read_text()


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yaml").read_text())


def test_the_families_are_the_ones_meant():
    made = subprocess.run(["make", "--silent", "families"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert json.loads(made) == FAMILIES == ["airflow", "data", "features", "postgres", "serving", "train", "ui", "worker"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT / "images")))
def test_hadolint_finds_nothing(path):
    found = ROOT / ".venv" / "infra" / "bin" / "hadolint"
    tool = str(found) if found.exists() else shutil.which("hadolint")
    if not tool:
        pytest.skip("hadolint is not installed: make test-infra")
    done = subprocess.run([tool, path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    "path", sorted(p for p in (ROOT / "images").glob("**/*") if p.is_file() and p.read_text().startswith("#!/bin/sh")), ids=lambda p: p.name
)
def test_scripts_are_posix_shell(path):
    assert subprocess.run(["dash", "-n", path]).returncode == 0


@pytest.mark.parametrize("family", FAMILIES)
def test_every_image_keeps_the_rules(family):
    text = dockerfile(family)
    build, final = text.rsplit("\nFROM ", 1)
    assert set(re.findall(r"^FROM (\S+)", text, re.M)) == {"${PYTHON}"}, "only the base that PYTHON names"
    assert text.count("ARG PYTHON=python:3.11-slim-bookworm\n") == 1
    assert "# syntax" not in text and "--mount" not in text, "any builder will do, also one that cannot fetch a frontend"
    assert "USER 1000:1000\n" in final and 'ENTRYPOINT ["tini", "--"]\n' in final
    assert re.search(r'^HEALTHCHECK .* CMD \["(healthy|pg_isready)"', final, re.M)
    assert f'org.opencontainers.image.title="flywheel/{family}"' in final and "org.opencontainers.image.licenses=" in final
    assert "apt-get" not in final and " pip " not in text and "RUN environment /opt/" in build, "what is installed is locked, and built elsewhere"
    assert "curl" not in text and "http" not in build


def test_images_share_their_lines():
    """One pattern: a line of `train` that another image has no reason to miss is in that image, word for word."""
    wanted = [
        line
        for line in dockerfile("train").splitlines()
        if re.match(r"ARG PYTHON|FROM|RUN apt|COPY --from|COPY images|USER|WORKDIR|ENTRYPOINT|RUN useradd", line)
    ]
    for family in (name for name in FAMILIES if name != "postgres"):
        text = dockerfile(family)
        lines = {line.replace("/opt/airflow", "/opt/flywheel") for line in text.splitlines()}
        assert [line for line in wanted if line not in lines] == [], family


def test_uv_is_the_one_the_makefile_installs():
    assert re.search(r"uv==([\d.]+)", (ROOT / "images" / "environment").read_text())[1] == re.search(r"UV_VERSION := (.+)", (ROOT / "Makefile").read_text())[1]


def test_nothing_else_goes_to_the_builder():
    rules = (ROOT / ".dockerignore").read_text().splitlines()
    sources = {name.split("/")[0] for family in FAMILIES for name in re.findall(r"^COPY (?!--from)(\S+)", dockerfile(family), re.M)}
    assert "*" in rules and {rule[1:] for rule in rules if rule.startswith("!")} == sources


def test_the_pods_and_the_compose_file_name_images_that_are_built():
    pods = (ROOT / "config" / "pods.yaml").read_text()
    assert set(re.findall(r"flywheel/([a-z]+):\w", pods)) <= set(FAMILIES)
    own = [service["image"] for service in compose()["services"].values()]
    assert {re.search(r"flywheel/([a-z]+):", image)[1] for image in own} == {"airflow", "postgres", "serving", "ui", "worker"}


def test_compose_opens_ports_on_this_machine_only_and_lets_nothing_write_its_own_files():
    for name, service in compose()["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["read_only"] is True and service["security_opt"] == ["no-new-privileges:true"], name
        assert name == "postgres" or service["cap_drop"] == ["ALL"], name
        assert "privileged" not in service and "docker.sock" not in str(service), name


def test_compose_waits_for_what_it_needs():
    services = compose()["services"]
    for name, service in services.items():
        for other, condition in service.get("depends_on", {}).items():
            once = services[other].get("restart") == "no"
            assert condition["condition"] == ("service_completed_successfully" if once else "service_healthy"), f"{name} after {other}"
    assert all("depends_on" in service for name, service in services.items() if name != "secrets")
