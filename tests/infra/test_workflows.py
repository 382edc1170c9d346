"""The workflows: two linters find nothing, every action is pinned, nobody has more rights than needed, and what they call is there."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
USED = [*FILES, *sorted((ROOT / ".github" / "actions").glob("*/action.yaml"))]
SECRETS = {"FLYWHEEL_AIRFLOW_TOKEN"}  # a new one is a decision: docs/security.md lists them


def tool(name: str) -> str:
    """A linter's path, or a skip that says how to get it."""
    found = ROOT / ".venv" / "infra" / "bin" / name
    path = str(found) if found.exists() else shutil.which(name)
    if not path:
        pytest.skip(f"{name} is not installed: make test-infra")
    return path


def workflow(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(), Loader=yaml.BaseLoader)  # BaseLoader: `on` is a key, not true


def jobs() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in FILES:
        for name, job in workflow(path)["jobs"].items():
            yield f"{path.stem}.{name}", job


def steps() -> Iterator[tuple[str, dict[str, Any]]]:
    for path in USED:
        found = workflow(path)
        groups = {"": found["runs"]} if "runs" in found else found["jobs"]
        for name, group in groups.items():
            for step in group.get("steps", []):
                yield f"{path.parent.name}/{path.stem}.{name}", step


def commands() -> Iterator[tuple[str, str]]:
    for where, step in steps():
        for line in step.get("run", "").replace("\\\n", " ").splitlines():
            yield where, line.strip()


def test_the_files_are_the_ones_meant():
    assert {path.stem for path in FILES} == {"images", "infrastructure", "release", "security", "test", "train-deploy"}


@pytest.mark.parametrize("command", [["actionlint"], ["zizmor", "--offline", "--quiet", ".github"]], ids=lambda c: c[0])
def test_linters_find_nothing(command):
    done = subprocess.run([tool(command[0]), *command[1:]], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_action_is_pinned_by_its_commit_and_in_one_version():
    pins: dict[str, set[str]] = {}
    for path in USED:
        for line in re.findall(r"^\s*(?:- )?uses: *(.+)$", path.read_text(), re.M):
            if not line.startswith("$/.github/"):
                match = re.fullmatch(r"([\w.-]+/[\w.-]+)[\w./-]*@([0-9a-f]{40} # v\d+\.\d+\.\d+)", line)
                assert match, f"{path.name}: {line}"
                pins.setdefault(match[1], set()).add(match[2])
    assert len(pins) >= 8 and {name: found for name, found in pins.items() if len(found) > 1} == {}


def test_nobody_has_rights_by_default_and_every_job_names_its_own():
    for path in FILES:
        assert workflow(path)["permissions"] == {}, path.name
        assert "concurrency" in workflow(path), path.name
        assert "pull_request_target" not in workflow(path)["on"], path.name
    for where, job in jobs():
        assert isinstance(job["permissions"], dict), where
        assert "uses" in job or int(job["timeout-minutes"]) <= 360, where
    for where, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false", where


def test_identities_and_secrets_are_out_of_a_forks_reach():
    for path in FILES:
        text = path.read_text()
        assert set(re.findall(r"\$\{\{.*?\bsecrets\.(\w+)", text)) <= SECRETS, path.name
        on = workflow(path)["on"]
        for name, job in workflow(path)["jobs"].items():
            if "pull_request" in on and ("id-token" in job["permissions"] or "{{ secrets." in str(job)):
                ours = "github.event.pull_request.head.repo.full_name == github.repository" in job.get("if", "")
                assert ours or "github.event_name == 'push'" in job.get("if", ""), f"{path.stem}.{name}"


def test_a_job_that_writes_to_a_pull_request_runs_none_of_its_code():
    for where, job in jobs():
        if {"pull-requests", "contents"} & {right for right, level in job["permissions"].items() if level == "write"}:
            assert not [step for step in job["steps"] if "uses" in step], where
            assert not re.search(r"\b(make|python)\b", str([step["run"] for step in job["steps"]])), where


def test_what_they_run_is_in_this_repository():
    targets = set(re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M))
    targets = {name for line in targets for name in line.split()}
    seen = set()
    for where, line in commands():
        for call in re.findall(r"\bmake ((?:--\w+ )*)([a-z-]+)(?: ONLY=\"([^\"]+)\")?", line):
            assert call[1] in targets, f"{where}: make {call[1]}"
            assert all((ROOT / name).exists() for name in call[2].split()), f"{where}: {line}"
            seen.add(call[1])
        for script in re.findall(r"(?<![\w/])(\.ci/\w+|scripts/[\w.-]+)", line):
            assert (ROOT / script).exists(), f"{where}: {script}"
            seen.add(script)
    assert {".ci/run", "test-infra", "audit", "image", "push", "plan", "apply", "client"} <= seen


def test_the_turn_they_start_has_the_options_they_pass():
    code = ast.parse((ROOT / "flywheel" / "cli.py").read_text())
    arguments = {f.name: {a.arg for a in f.args.args} for f in code.body if isinstance(f, ast.FunctionDef)}
    calls = [(where, match) for where, line in commands() for match in re.findall(r"-m flywheel (\w+)(.*)", line)]
    assert calls
    for where, (name, rest) in calls:
        options = {option.removeprefix("no-").replace("-", "_") for option in re.findall(r"--([a-z-]+)", rest)}
        assert options <= arguments[name], f"{where}: {options - arguments[name]}"
