"""The restore drill: what comes back serves the same champion with the same hash; half a backup is refused before anything is written."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import threading
import time
import uuid
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from flywheel import backup, copying, ledger, manifest, registry, store
from flywheel.cli import app
from flywheel.errors import ContractError
from flywheel.laptop import postgres, services
from flywheel.registry import TAG, Version
from flywheel.settings import settings
from tests.conftest import free_port
from tests.flywheel.ledger.conftest import curate, give, published, sealed_lines


@pytest.fixture
def place(postgres_server, tmp_path, monkeypatch):
    """Makes a new installation current: a home, and names of three databases that the server does not have yet."""

    def move(name):
        for database in backup.DATABASES:
            variable = "FLYWHEEL_DATABASE_URL" if database == "flywheel" else f"FLYWHEEL_{database.upper()}_DATABASE_URL"
            address = postgres_server.set(database=f"{name}_{database}_{uuid.uuid4().hex[:8]}")
            monkeypatch.setenv(variable, address.render_as_string(hide_password=False))
        monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path / name))
        monkeypatch.setenv("FLYWHEEL_MODEL_NAME", "flywheel")
        settings.cache_clear()
        return tmp_path / name

    yield move
    settings.cache_clear()


def make_databases(*names):
    for name, url in backup.addresses().items():
        if name in names:
            with postgres.connect(url, "postgres") as db:
                db.execute(f"create database {url.database}")


@pytest.fixture
def nothing_served(monkeypatch):
    """A registry that is away: what these tests are about does not need it."""
    monkeypatch.setenv("FLYWHEEL_MLFLOW_URL", "http://127.0.0.1:1")


@pytest.fixture
def mlflow(monkeypatch):
    """Starts the MLflow server of the current installation as the stack does."""
    started = []

    def start():
        monkeypatch.setenv("FLYWHEEL_MLFLOW_URL", f"http://127.0.0.1:{free_port()}")
        settings.cache_clear()
        service = next(s for s in services.services(settings()) if s.name == "mlflow")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        process = subprocess.Popen(service.command, env={**os.environ, **service.environment}, start_new_session=True, **quiet)
        started.append(process)
        until = time.monotonic() + 180
        while time.monotonic() < until and process.poll() is None:
            try:
                if httpx.get(f"{settings().mlflow_url}/health", timeout=2).is_success:
                    return
            except httpx.HTTPError:
                time.sleep(0.1)
        pytest.fail("MLflow did not start")

    yield start
    for process in started:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def register(home, name):
    """A version as the stage registers it: its files in MLflow, its adapter in the store."""
    client = registry.client()
    folder = home / "store" / "runs" / "flywheel" / name
    (folder / "package" / "adapter").mkdir(parents=True)
    (folder / "package" / "adapter" / "weights").write_text(f"weights of {name}")
    adapter = manifest.describe(folder / "package" / "adapter", store.relative(str(folder / "package" / "adapter")))
    package = manifest.describe(folder / "package", store.relative(str(folder / "package")))
    if not client.search_registered_models():
        client.create_registered_model("flywheel")
    experiment = client.get_experiment_by_name("flywheel")
    run = client.create_run(experiment.experiment_id if experiment else client.create_experiment("flywheel")).info
    client.log_artifacts(run.run_id, str(folder / "package"), "model")
    version = Version(
        base="b", prompt="auto", adapter=adapter, package=package, dataset="d", trained_ids=adapter, suites=adapter, reference=None, parent=None,
        verdict="promote", reason="better", run_dir=store.relative(str(folder)),
    )  # fmt: skip
    tags = {TAG: version.model_dump_json(exclude={"version"})}
    return int(client.create_model_version("flywheel", f"{run.artifact_uri}/model", run.run_id, tags=tags).version)


def test_the_drill_an_empty_folder_serves_the_same_champion(place, mlflow, tmp_path):
    home = place("old")
    home.mkdir()
    (home / "config.yaml").write_text("# mine\n")
    make_databases("flywheel", "mlflow")
    mlflow()
    for name in ("one", "two"):
        registry.promote(register(home, name), "drill", "better")
    give(1, correction="a tree")
    curate(home)
    give(2)
    ledger.seal_segments()
    champion, learned, lines = registry.champion(), published(), sealed_lines()
    told = CliRunner().invoke(app, ["backup", str(tmp_path / "copy")])
    assert told.exit_code == 0 and "2 databases" in told.output and "the champion is version 2" in told.output

    home = place("new")
    assert not home.exists()
    back = CliRunner().invoke(app, ["restore", str(tmp_path / "copy")])
    assert back.exit_code == 0 and f"version 2, package {champion.package.sha256[:12]}" in back.output, back.output
    mlflow()
    assert registry.champion() == champion and registry.alias("previous") == 1
    assert (registry.fetch(registry.champion(), tmp_path / "cache") / "weights").read_text() == "weights of two"
    assert store.sha256_file(home / "store" / "runs/flywheel/two/package/adapter/weights") == champion.adapter.files["weights"]
    assert (published(), sealed_lines(), (home / "config.yaml").read_text()) == (learned, lines, "# mine\n")
    assert [e["detail"]["version"] for e in ledger.list_events()] == [2, 1]
    assert registry.rollback("drill", "does it still work", None) == 1
    assert give(3) and ledger.seal_segments()  # numbers go on where they were


@pytest.fixture
def copy(place, nothing_served, tmp_path):
    """A small backup, and its installation's home."""
    home = place("old")
    make_databases("flywheel")
    give(1, correction="a tree")
    curate(home)
    backup.backup(str(tmp_path / "copy"))
    return tmp_path / "copy", home


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda c: (c / "backup.json").unlink(), "its manifest is missing"),
        (lambda c: (c / "backup.json").write_text("{"), "its manifest cannot be read"),
        (lambda c: (c / "files.jsonl").write_text(""), r"files\.jsonl: its content is not"),
        (lambda c: next((c / "store").rglob("*.jsonl")).unlink(), r"jsonl: this file is missing or has another size"),
        (lambda c: (c / "databases" / "flywheel.dump").write_bytes(b"x" * (c / "databases" / "flywheel.dump").stat().st_size), r"flywheel\.dump: its content"),
        (lambda c: rewrite(c / "backup.json", migration=9999), "a newer version of the code"),
    ],
)
def test_half_a_backup_is_refused_before_anything_is_written(copy, place, damage, words):
    folder, _ = copy
    damage(folder)
    home = place("new")
    with pytest.raises(ContractError, match=words):
        backup.restore(str(folder))
    assert not home.exists()


def rewrite(path, **change):
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


def test_a_changed_byte_is_found_by_a_check(copy):
    folder, _ = copy
    assert CliRunner().invoke(app, ["restore", str(folder), "--check"]).exit_code == 0
    file = next((folder / "store").rglob("examples.jsonl"))
    file.write_bytes(file.read_bytes()[:-2] + b" \n")
    done = CliRunner().invoke(app, ["restore", str(folder), "--check"])
    assert done.exit_code == 2 and "examples.jsonl: its content is not what the backup recorded" in " ".join(done.output.split())


def test_only_what_is_empty_is_restored_into_and_only_a_new_folder_is_written(copy, place, tmp_path):
    folder, home = copy
    with pytest.raises(ContractError, match="the store is not empty"):
        backup.restore(str(folder))
    with pytest.raises(ContractError, match="there is something already"):
        backup.backup(str(folder))
    for inside in (home / "store" / "backups", home):
        with pytest.raises(ContractError, match="cannot lie in the store"):
            backup.backup(str(inside))
    place("new")
    make_databases("flywheel")
    give(1)
    with pytest.raises(ContractError, match="this database is not empty"):
        backup.restore(str(folder))


def test_what_came_after_the_ledger_was_read_does_not_come_back_twice(place, nothing_served, tmp_path, monkeypatch):
    home = place("old")
    make_databases("flywheel")
    first = give(1, correction="a tree")
    real = copying.copy_tree

    def busy(source, target):
        if source == settings().store:
            give(2, correction="a heap")
            curate(home)  # claims both, after the dump and before the copy
        return real(source, target)

    monkeypatch.setattr(copying, "copy_tree", busy)
    backup.backup(str(tmp_path / "copy"))
    home = place("new")
    backup.restore(str(tmp_path / "copy"))
    assert published() == [] and not store.list_names(store.join(settings().store, ledger.CLAIMED))
    give(2, correction="a heap", idempotency_key="key-000009")
    assert curate(home).id == 1
    assert published()[0].feedback_ids == (first,) and len(published()) == 2


def test_a_backup_is_taken_while_people_write(place, nothing_served, tmp_path):
    home = place("old")
    make_databases("flywheel")
    over = threading.Event()
    written = 0

    def work():
        nonlocal written
        while not over.is_set():
            give(written, correction=f"answer {written}")
            curate(home, name=str(written))
            written += 1

    worker = threading.Thread(target=work)
    worker.start()
    while written < 3:
        time.sleep(0.01)
    backup.backup(str(tmp_path / "copy"))
    over.set()
    worker.join()
    place("new")
    backup.restore(str(tmp_path / "copy"))
    with ledger.transaction() as db:
        told = {ledger.batch_name(n) for n in db.execute(sa.text("select id from batches where finished")).scalars()}
    files = {name.removesuffix(".json") for name in store.list_names(store.join(settings().store, ledger.BATCHES))}
    assert told and told <= files  # every batch that the ledger calls finished can be read
    assert len(published()) >= len(told)


def test_files_that_vanish_are_looked_at_again(tmp_path, monkeypatch):
    source, target = tmp_path / "a", tmp_path / "b"
    for name, text in {"pointer": "old", "old": "1", "same": "s"}.items():
        store.write_bytes(str(source / name), text.encode())
    real = copying.copy

    def copy(one, two):
        if one.endswith("/old"):  # replaced before it was its turn
            store.write_bytes(str(source / "new"), b"2")
            store.write_bytes(str(source / "pointer"), b"new")
            Path(one).unlink(missing_ok=True)
        return real(one, two)

    monkeypatch.setattr(copying, "copy", copy)
    found = {f.name: f for f in copying.copy_tree(str(source), str(target))}
    assert sorted(found) == ["new", "pointer", "same"] and (target / "pointer").read_text() == "new"
    assert found["new"].sha256 == store.sha256_file(source / "new")


def test_s3_and_back(copy, place, bucket):
    settings.cache_clear()
    to = store.join(bucket, "backups", "one")
    told = backup.backup(to)
    assert told.files >= 4 and backup.check(to)[0] == told
    place("new")
    backup.restore(to)
    assert len(published()) == 1 and sealed_lines()
    store.remove(store.join(to, "backup.json"))
    place("third")
    with pytest.raises(ContractError, match="its manifest is missing"):
        backup.restore(to)


def test_a_restore_on_a_new_machine_starts_the_embedded_server(copy, place, monkeypatch, tmp_path):
    folder, _ = copy
    home = Path(f"/tmp/fw-{uuid.uuid4().hex[:8]}")  # its user may not look into pytest's folders
    monkeypatch.setenv("FLYWHEEL_HOME", str(home))
    monkeypatch.setenv("FLYWHEEL_DATABASE_URL", f"postgresql+psycopg://flywheel@127.0.0.1:{free_port()}/flywheel")
    for name in ("MLFLOW", "AIRFLOW"):
        monkeypatch.delenv(f"FLYWHEEL_{name}_DATABASE_URL")
    settings.cache_clear()
    try:
        backup.restore(str(folder))
        url = sa.make_url(settings().database_url)
        assert not postgres.answers(url)  # stopped again: `make up` starts the whole stack
        with postgres.running(home / "postgres", url):
            assert len(published()) == 1
    finally:
        shutil.rmtree(home, ignore_errors=True)
