"""Every command of the handbook is run by a test, or stands here with the reason why not.

pytest tests/docs                              what is quick, and whether nothing was forgotten
pytest -s -m slow tests/docs                   a stranger's hour: the pages alone, on a stack of its own
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import click
import httpx
import pytest
import typer
from typer.testing import CliRunner

from flywheel import config, ledger, operations, registry
from flywheel.cli import app
from flywheel.settings import settings
from tests.docs.blocks import PAGES, ROOT, Command, commands
from tests.e2e.stack import SERVICES, free_ports
from tests.flywheel.ledger.conftest import ask, curate, give

HERE = "tests/docs/test_commands.py::"
QUICK, STRANGER = f"{HERE}test_what_a_page_says_to_type_can_be_typed", f"{HERE}test_a_strangers_hour"
FLYWHEEL = r"(\S*python -m )?flywheel "
CLOUD = "no: needs an account of AWS; `make test-infra` applies the same modules to a simulated one"
CLUSTER = "no: needs a cluster; tests/cluster installs the same charts and manifests on one"
HOW: list[tuple[str, str]] = [  # the first pattern that a command begins with says who runs it
    (FLYWHEEL + r"(trace ID|forget --user)", "tests/flywheel/test_forgetting.py::test_what_an_operator_types"),
    (FLYWHEEL + r"(versions|events|trace|costs|rollback|promote|retire|pause|resume|backup|restore|migrate|storage|holds?|forget)\b", QUICK),
    (r"FLYWHEEL_HOME=\S+ \S*python -m flywheel (restore|up|forget)", "tests/flywheel/test_backup.py::test_the_drill_an_empty_folder_serves_the_same_champion"),
    (FLYWHEEL + r"data ", "tests/flywheel/test_datasets.py::test_"),
    (FLYWHEEL + r"review (export|import)", "tests/flywheel/labelling/test_prodigy.py::test_"),
    (FLYWHEEL + r"notices", "tests/flywheel/test_notices.py::test_"),
    (FLYWHEEL + r"turn .*model.base=", "no: needs a model of seven billion parameters; tests/tasks/training/test_base.py trains from a folder"),
    (FLYWHEEL + r"turn ", STRANGER),
    (FLYWHEEL + r"--help", f"{HERE}test_every_command_and_option_is_one"),
    (r"FLYWHEEL_AIRFLOW_URL=https://", "tests/e2e/test_turn.py::test_turns_and_repeats_from_cache"),
    (r"\S*python -m tasks\.(ingest|clean) ", STRANGER),
    (r"\S*python -m tasks\.train ", "tests/tasks/training/test_kills.py::test_"),
    (r"\S*python -m tasks\.index ", "tests/tasks/test_index.py::test_"),
    (r"\S*python -m tasks\.features ", "tests/features/test_features.py::test_"),
    (r"\S*python -m tasks\.housekeep ", "tests/tasks/test_housekeep.py::test_"),
    (r"\S*python -m tasks\.summary ", "tests/tasks/test_summary.py::test_"),
    (r"\S*python -m infra\.monitoring\.check", "tests/infra/test_monitoring.py::test_"),
    (r"(cd \S*datasets|python -m dvc )", "tests/tasks/test_dataset.py::test_"),
    (r"make (status|turn|down|up)\b", STRANGER),
    (r"make demo", "no: a quarter of an hour of training; the stranger's hour does the same on fewer records"),
    (r"make (images?|push|sbom)\b", "no: needs Docker; the images' workflow builds every one of them"),
    (r"make test\b", "no: it runs this test"),
    (r"make docs", "tests/docs/test_site.py::test_the_site_is_built_without_a_warning"),
    (r"make review", "tests/e2e/test_review.py::test_"),
    (r"make monitoring", "tests/infra/test_monitoring.py::test_"),
    (r"make (features|features-server|client)\b", "no: installs an environment; CI makes it for `make test-features`"),
    (r"export FLYWHEEL_FEATURES_URL=", "tests/features/test_features.py::test_"),
    (r"cat > records.jsonl", STRANGER),
    (r"curl -s http://127.0.0.1", STRANGER),
    (FLYWHEEL + r"(backfill|watch)\b", "tests/tasks/test_backfill.py::test_"),
    (r"airflow backfill ", "tests/tasks/test_backfill.py::test_"),
    (r"prodigy ", "no: Prodigy is sold, not given; tests/flywheel/labelling/test_prodigy.py reads and writes its files"),
    (r"cp config/notices.yaml", "tests/flywheel/test_notices.py::test_"),
    (r"(aws|terraform|(secret|users|role)\(\)|\{ printf|printf 'terraform|cd infra/terraform|cd \.\./environments|cp terraform.tfvars)", CLOUD),
    (r"(kubectl|helm|cp config/pods.yaml|curl -s localhost:8000|export FLYWHEEL_LAUNCHER=kubernetes)", CLUSTER),
    (r"docker compose ", "no: needs Docker and every image; tests/compose brings it up where there are"),
    (r"DS_BUILD_OPS|uv |docker |npm ", "no: installs or builds what a GPU node or an image needs; the images' workflow does"),
]


def how(command: Command) -> str:
    """Who runs it; empty when nobody does."""
    return next((who for pattern, who in HOW if re.match(pattern, command.line)), "")


EVERY = [command for page in PAGES for command in commands(page)]


def test_every_command_is_run_by_a_test_or_says_why_not():
    forgotten = [f"{c.page}: {c.line}" for c in EVERY if not how(c)]
    assert not forgotten, "add them to HOW in tests/docs/test_commands.py"
    for _, who in HOW:
        if not who.startswith("no: "):
            path, _, name = who.partition("::")
            assert f"def {name}" in (ROOT / path).read_text(), who


def test_no_page_is_without_commands_that_are_found():
    found = {c.page for c in EVERY}
    assert {"README.md", "docs/tutorial.md", "docs/backup.md", "docs/howto/own-data.md", "docs/howto/rollback.md"} <= found and len(EVERY) > 60


def words(command: Command) -> list[str]:
    """Its words after `flywheel`."""
    text = re.sub(r"\s+# .*", "", command.text.replace("\\\n", " "))
    return shlex.split(text)[shlex.split(text).index("flywheel") + 1 :]


OURS = [c for c in EVERY if re.match(r"(\w+=\S+ )*" + FLYWHEEL, c.line.replace("\\", ""))]


@pytest.mark.parametrize("command", OURS, ids=lambda c: f"{c.page}: {c.line}")
def test_every_command_and_option_is_one(command):
    given, known = words(command), typer.main.get_command(app)
    if given == ["--help"]:
        return
    while hasattr(known, "commands"):
        assert given[0] in known.commands, command
        known = known.commands[given.pop(0)]
    try:
        known.make_context("flywheel", given)
    except click.UsageError as error:
        pytest.fail(f"{command.page}: {command.line}: {error.format_message()}")


def test_every_setting_that_is_changed_is_one():
    for command in EVERY:
        changes = re.findall(r"--set (\S+=\S+)", re.sub(r"\s+# .*", "", command.line))
        if changes and "…" not in command.line:
            config.load(str(ROOT / "config" / "flywheel.yaml"), changes)


def test_every_target_of_make_is_one():
    targets = set(re.findall(r"^([a-z][a-z -]*):", (ROOT / "Makefile").read_text(), re.M))
    names = {name for line in targets for name in line.split()}
    for command in EVERY:
        if found := re.match(r"make ([a-z-]+)", command.line):
            assert found[1] in names, command


@pytest.fixture
def world(register, mlflow_server, database, home, monkeypatch):
    """Two versions, the second the champion; feedback, a batch, and an Airflow of two DAGs."""
    one = register("one", "d1")
    two = register("two", "d2", parent=one, reference=one)
    for version in (one, two):
        registry.promote(version, "handbook", "better")
    give(1, ask(1, user="Ada"), user="Ada", correction="a tree")
    curate(home)
    ledger.seal_segments()
    dags = {"flywheel": False, "feedback": False}

    class Api:
        def dag(self, name):
            return {"is_paused": dags[name]}

        def pause(self, name, *, paused):
            dags[name] = paused

    monkeypatch.setattr(operations, "AirflowApi", Api)


TYPED = sorted({c.page for c in OURS if how(c) == QUICK})


@pytest.mark.parametrize("page", TYPED)
def test_what_a_page_says_to_type_can_be_typed(page, world, tmp_path):
    for command in OURS:
        if command.page == page and how(command) == QUICK:
            typed = [word.replace("/backups/", f"{tmp_path}/") for word in words(command)]
            done = CliRunner().invoke(app, typed)
            assert done.exit_code == 0, f"{command.line}\n{done.output}"


def make_stack_of_its_own(home: Path) -> dict[str, str]:
    """An environment in which `make`, and what the pages say, work on a stack beside the one that may be running."""
    ports = dict(zip(SERVICES, free_ports(len(SERVICES)), strict=True))
    environment = {**os.environ, "FLYWHEEL_HOME": str(home), "PYTHONPATH": str(ROOT), "USER": "stranger"}
    environment["FLYWHEEL_DATABASE_URL"] = f"postgresql+psycopg://flywheel@127.0.0.1:{ports['database']}/flywheel"
    environment.update({f"FLYWHEEL_{n.upper()}_URL": f"http://127.0.0.1:{ports[n]}" for n in SERVICES[1:]})
    return environment


SMALL = {  # what a stranger's machine does in minutes: the demo's settings on fewer records
    "extends": str(ROOT / "config" / "demo.yaml"),
    "clean": {"steps": ["unicode", "length", "exact_duplicates", "decontamination"]},
    "train": {"max_examples": 64, "min_new_examples": 0},
    "evaluate": {"examples": 12, "generate": 4, "max_new_tokens": 8, "corrections": 4, "suites": []},
}
HOUR = ("docs/tutorial.md", "docs/howto/own-data.md", "docs/howto/own-rule.md", "docs/howto/rollback.md")


@pytest.mark.slow
def test_a_strangers_hour():
    """From nothing to a turned wheel, own data, a changed margin of the gate, and rollbacks: the commands of four pages, in order, by the shell."""
    home = Path(tempfile.mkdtemp(prefix="stranger-"))
    environment = make_stack_of_its_own(home)
    rows = [{"instruction": f"What is {a} plus {b}?", "output": f"The sum of {a} and {b} is {a + b}."} for a in range(3, 15) for b in range(20, 30)]
    (home / "records.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "files", "path": str(home / "records.jsonl"), "licence": "CC0-1.0", "consent": "made here"}
    serving = environment["FLYWHEEL_SERVING_URL"]

    def run(text: str) -> str:
        own = text.replace(".flywheel/", f"{home}/").replace("http://127.0.0.1:18000", serving).replace("> records.jsonl", f"> {home}/given.jsonl")
        done = subprocess.run(["bash", "-ec", own], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
        print(f"$ {text}\n{done.stdout[-2000:]}{done.stderr[-2000:]}", flush=True)
        assert done.returncode == 0, text
        return done.stdout

    try:
        for page in HOUR:
            if page == "docs/howto/own-data.md":
                (home / "config.yaml").write_text(json.dumps({**SMALL, "ingest": {"sources": [source], "reserve": 0}}))
                run("make up")  # the tutorial's last words
            for command in commands(ROOT / page):
                if not command.line.startswith("make demo SOURCE="):  # which needs hundreds of records
                    run(command.text)
        served = httpx.get(f"{serving}/readyz", timeout=30).json()["model_version"]
        assert served == "2", served
        actions = run(".venv/ml/bin/python -m flywheel events")
        assert all(word in actions for word in ("promote", "retire", "pause", "resume", "stranger"))
    finally:
        run(".venv/ml/bin/python -m flywheel down")
        settings.cache_clear()
    shutil.rmtree(home)
