"""What is read of a turn that has ended, and what a pull request is told of it."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
import yaml
from typer.testing import CliRunner

from flywheel import code, comment, config, manifest, store, turn
from flywheel.cli import app
from flywheel.errors import ContractError
from flywheel.settings import REPOSITORY, settings

VERDICT = {
    "verdict": "promote",
    "reason": "better; every rule is kept",
    "paragraph": "The new version replaces version 3. On questions that neither of them had seen, it is better.",
    "rules": [
        {"name": "primary", "outcome": "pass", "text": "gain +0.04", "figure": 0.00001, "limit": 0.0001},
        {"name": "general", "outcome": "skip", "text": "no general suite was asked", "figure": None, "limit": None},
    ],
}
METRICS = {"log_loss": {"champion": 2.0, "challenger": 1.9, "gain": 0.1, "interval": [0.05, 0.15], "examples": 120}}
FOUND = {
    "verdict": VERDICT, "metrics": METRICS, "page": "s3://bucket/report.html", "version": 4, "registry_page": "https://mlflow.example/report.html",
    "rollout": "done", "rollout_reason": "", "seconds": {"train": 90.0, "gate": 30.0}, "money": 1.25, "currency": "EUR", "code": "0" * 64, "image": "",
}  # fmt: skip


def write(run: str, stage: str, **changed: object) -> None:
    now = datetime.now(UTC)
    found = {"stage": stage, "run_dir": store.relative(run), "attempt": 1, "cache_key": "k", "started": now, "ended": now} | changed
    manifest.write(manifest.Manifest.model_validate(found), run)


def written(run: str, name: str, content: object) -> manifest.Artifact:
    uri = store.join(run, name)
    store.write_bytes(uri, json.dumps(content).encode())
    return manifest.describe(store.local_path(uri), store.relative(uri))


@pytest.fixture
def run(home):
    """A run's folder with the manifests of a turn that was promoted and not yet rolled out."""
    folder = manifest.run_dir("flywheel", "r:1", settings().store)
    for stage in ("ingest", "clean", "tokenize", "dataset", "train"):
        write(folder, stage, cost={"money": 0.5, "wall_seconds": 60}, code_digest="c0de", image="sha256:1" if stage == "train" else "")
    write(folder, "parity")
    write(folder, "evaluate", outputs={"report": written(folder, "report.json", {"metrics": METRICS})})
    write(folder, "gate", outputs={"verdict": written(folder, "verdict.json", VERDICT), "page": written(folder, "page.html", "")})
    write(folder, "register", metrics={"version": 4, "page": "https://mlflow.example/report.html"})
    return folder


def test_results_of_a_turn_that_a_person_did_not_approve_and_of_one_that_was_rolled_out(run):
    found = turn.results(run)
    assert found["rollout"] == "skipped" and found["rollout_reason"] == "nobody approved it"
    assert (found["money"], found["version"], found["image"], found["verdict"]["verdict"]) == (2.5, 4, "sha256:1", "promote")
    write(run, "rollout")
    assert turn.results(run)["rollout"] == "done"
    assert set(comment_needs(found)) == set(FOUND)


def comment_needs(found: dict) -> dict:
    return {key: value for key, value in found.items() if key != "run_dir"}


def test_a_turn_that_was_skipped_has_a_reason(run):
    assert turn.skipped(run) == ""
    write(run, "train", outcome="skipped", reason="3 new examples, and 8 are needed")
    assert turn.skipped(run) == "train: 3 new examples, and 8 are needed"


@pytest.mark.parametrize("name", ["flywheel", "demo"])
def test_a_frozen_config_means_the_same(home, name):
    source = str(REPOSITORY / "config" / f"{name}.yaml")
    frozen = turn.freeze(source)
    assert config.load(frozen) == config.load(source)
    assert "extends" not in yaml.safe_load(store.read_bytes(frozen))
    assert turn.freeze(source) == frozen


def test_a_wrong_config_or_change_never_reaches_the_store(home, tmp_path):
    (tmp_path / "c.yaml").write_text(f"extends: {REPOSITORY}/config/flywheel.yaml\ntrain: {{epoch: 3}}\n")
    with pytest.raises(ContractError, match=r"unknown key `train\.epoch`"):
        turn.freeze(str(tmp_path / "c.yaml"))
    with pytest.raises(ContractError, match=r"unknown key `train\.epoch`"):
        turn.freeze(str(REPOSITORY / "config" / "flywheel.yaml"), ["train.epoch=3"])
    assert not (home / "store").exists()


def test_a_pull_request_is_told_why_no_turn_was_started(home, tmp_path):
    (tmp_path / "c.yaml").write_text(f"extends: {REPOSITORY}/config/flywheel.yaml\ntrain: {{epoch: 3}}\n")
    done = CliRunner().invoke(app, ["turn", "--config", str(tmp_path / "c.yaml"), "--comment", str(tmp_path / "comment.md")])
    assert done.exit_code == 2
    text = (tmp_path / "comment.md").read_text()
    assert text.startswith("### No turn was started\n\n") and "unknown key &#96;train.epoch&#96;" in text and "Run in Airflow" not in text


def test_the_comment_has_verdict_figures_rules_cost_and_links():
    text = comment.of(FOUND | {"code": code.digest("tasks.train")}, "r:1")
    assert text.startswith("### ✅ promote\n\nThe new version replaces version 3.")
    assert "| log&#95;loss | 2 | 1.9 | +0.1 | +0.05 … +0.15 | 120 |" in text
    assert "<summary>1 of 2 rules kept</summary>" in text and "| primary | pass | gain +0.04 | 1e-05 | 0.0001 |" in text
    assert "Version 4 is the champion now. It cost 1.25 EUR and 2 minutes of stages." in text
    assert "Trained with the code of this commit." in text
    assert "/dags/flywheel/runs/r%3A1>)" in text and "[evaluation report](<https://mlflow.example/report.html>)" in text


def test_the_comment_says_when_other_code_was_run_and_why_a_version_stays():
    text = comment.of(FOUND | {"rollout": "skipped", "rollout_reason": "the gate says hold", "image": "sha256:1"}, "r:1")
    assert "code of the installation (000000000000, image sha256:1), which is not this commit's" in text
    assert "Version 4 is registered and not rolled out: the gate says hold." in text


def test_the_worst_rule_comes_first():
    bad = VERDICT | {"verdict": "refuse", "rules": [*VERDICT["rules"], {"name": "safety", "outcome": "refuse", "text": "told", "figure": 1, "limit": 0}]}
    text = comment.of(FOUND | {"verdict": bad}, "r:1")
    assert text.startswith("### ⛔ refuse") and text.index("| safety |") < text.index("| primary |")


def test_words_of_a_model_are_only_words():
    evil = "x | [click](https://evil.example) <img src=x> @everyone `code`\n# heading"
    bad = VERDICT | {"rules": [{"name": "safety", "outcome": "refuse", "text": evil, "figure": 1, "limit": 0}]}
    text = comment.of(FOUND | {"verdict": bad}, "r:1")
    row = next(line for line in text.splitlines() if line.startswith("| safety"))
    assert row.count("|") == 6
    assert not any(part in text for part in ("[click]", "<img", "@everyone", "`", "\n# heading"))
