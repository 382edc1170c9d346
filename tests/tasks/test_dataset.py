"""Versions of a data set: known by content alone, tracked, described, compared; and real text through every data stage."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import pytest

from flywheel import config, datasets, manifest, stage, store
from flywheel.errors import TransientError
from flywheel.settings import REPOSITORY, settings
from tasks import clean, dataset, ingest, tokenize, tracking
from tests.tasks import debian
from tests.tasks.conftest import rows
from tests.tasks.test_backfill import feedback_of

STAGES = (ingest, clean, tokenize, dataset)
SOURCE = "{{kind: files, name: made, path: '{path}', licence: CC0-1.0, consent: made here}}"


@pytest.fixture
def build(home, tiny_model):
    """Runs the data stages of a named run on records; the version comes back."""
    home.mkdir(exist_ok=True)

    def run(name, records=None, *changes):
        if records is not None:
            (home / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
        source = SOURCE.format(path=home / "records.jsonl")
        (home / "c.yaml").write_text(
            f"model: {{base: '{tiny_model}'}}\ningest: {{sources: [{source}], heldout: 0.25}}\nclean: {{steps: [unicode, length, exact_duplicates, decontamination]}}\n"
        )
        conf, folder = config.load(str(home / "c.yaml"), list(changes)), f"{settings().store}/runs/t/{name}"
        for module in STAGES:
            made = stage.execute(module.STAGE, conf, folder)
        return datasets.get(str(made.metrics["version"]))

    return run


def test_the_same_records_are_the_same_version_whatever_their_order_and_run(build):
    records = rows(60)
    one = build("one", records)
    assert build("two", records[::-1]).id == one.id and len(datasets.versions()) == 1
    assert datasets.get(one.id[:8]).run_dir == "runs/t/one"
    changed = [*records[:-1], {**records[-1], "output": "Something else."}]
    assert build("three", changed).id != one.id and len(datasets.versions()) == 2


def test_nothing_is_done_again_when_nothing_changed(build):
    build("one", rows(60))
    build("two")
    second = [manifest.read_for(f"{settings().store}/runs/t/two", module.STAGE.name) for module in STAGES]
    assert [bool(m.cached_from) for m in second] == [True] * 4


def test_a_version_comes_back_from_dvc(build, tmp_path):
    remote = tmp_path / "remote"
    version = build("one", rows(60), f"dataset.remote={remote}")
    project = settings().home / "store" / "datasets"
    kept = version.content["train"].fetch(tmp_path).read_bytes()
    shutil.rmtree(project / ".dvc" / "cache")
    assert not (project / version.id / "clean").exists()
    subprocess.run([sys.executable, "-m", "dvc", "pull", "-q", f"{version.id}/clean.dvc"], cwd=project, check=True)
    assert (project / version.id / "clean" / "train.jsonl").read_bytes() == kept
    assert {p.name for p in (project / version.id).glob("*.dvc")} == {"raw.dvc", "clean.dvc"}  # nobody curated anything


def test_a_remote_that_fails_is_transient_and_leaves_no_version(build, tmp_path):
    (tmp_path / "remote").write_text("a file where a folder should be")
    with pytest.raises(TransientError, match="dvc push"):
        build("one", rows(60), f"dataset.remote={tmp_path}/remote")
    assert datasets.versions() == []
    (tmp_path / "remote").unlink()
    assert build("one", None, f"dataset.remote={tmp_path}/remote").tracked


def test_beside_a_store_on_s3_a_version_can_be_pulled_anywhere(home, monkeypatch, tmp_path):
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        url = "http://{}:{}".format(*server.get_host_and_port())
        for name, value in {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}.items():
            monkeypatch.setenv(name, value)
        boto3.client("s3").create_bucket(Bucket="data")
        monkeypatch.setenv("FLYWHEEL_STORE", "s3://data/store")
        settings.cache_clear()
        (tmp_path / "x.jsonl").write_text("x\n")
        assert tracking.track("one", {"clean": {"train.jsonl": tmp_path / "x.jsonl"}, "curated": {}}, "") == "datasets/one"
        elsewhere = store.download("s3://data/store/datasets", tmp_path / "elsewhere")
        subprocess.run([sys.executable, "-m", "dvc", "pull", "-q", "one/clean.dvc"], cwd=elsewhere, check=True)
        assert (elsewhere / "one" / "clean" / "train.jsonl").read_text() == "x\n"
    finally:
        server.stop()


def test_two_at_once_do_not_meet_in_dvc(home):
    home.mkdir()
    parts = {"clean": {"train.jsonl": home / "x.jsonl"}}
    (home / "x.jsonl").write_text("x\n")
    code = "import sys; from pathlib import Path; from tasks import tracking; tracking.track(sys.argv[1], {'clean': {'train.jsonl': Path(sys.argv[2])}}, '')"
    tracking.track("first", parts, "")
    together = [
        subprocess.Popen([sys.executable, "-c", code, name, str(home / "x.jsonl")], cwd=REPOSITORY, env={**os.environ, "FLYWHEEL_HOME": str(home)})
        for name in ("a", "b")
    ]
    assert [process.wait() for process in together] == [0, 0]
    assert all((home / "store" / "datasets" / name / "clean.dvc").exists() for name in ("first", "a", "b"))


@pytest.mark.parametrize("delays", [[2.0], pytest.param([n / 4 for n in range(1, 21)], marks=pytest.mark.slow)])
def test_kill_9_never_leaves_half_a_version(build, home, delays):
    version = build("one", rows(60))
    command = [sys.executable, "-m", "tasks.dataset", "--config", f"{home}/c.yaml", "--run-dir", f"{home}/store/runs/t/one"]
    environment = {**os.environ, "FLYWHEEL_HOME": str(home)}
    for delay in delays:  # whatever it is doing then
        shutil.rmtree(home / "store" / "datasets")
        shutil.rmtree(home / "store" / "cache" / "dataset")
        killed = subprocess.Popen(command, cwd=REPOSITORY, env=environment, start_new_session=True, stdout=subprocess.DEVNULL)
        time.sleep(delay)
        os.killpg(killed.pid, signal.SIGKILL)
        killed.wait()
        for seen in datasets.versions():
            assert seen.tracked and sum(1 for _ in seen.examples()) == sum(seen.records.values())
        assert subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL).returncode == 0
        assert [v.id for v in datasets.versions()] == [version.id]


def test_the_card_and_the_report_say_what_happened(build, home):
    records = rows(80)
    (home / "records.jsonl").write_text(
        "{broken\n" + "".join(json.dumps(r) + "\n" for r in [*records, records[0], {"instruction": "<b>Q</b>", "output": "x" * 9000}])
    )
    version = build("one")
    card, report = version.card.fetch(home).read_text(), version.report.fetch(home).read_text()
    for text in ("CC0-1.0", "made here", "exact duplicates", "| length |", version.id, "█", "No step that masks or drops personal data", "size_categories"):
        assert text in card
    for text in (
        "records.jsonl, line 1",
        "<td>exact duplicates</td>",
        "<svg",
        "9000 characters, more than 8000",
        "&lt;b&gt;Q&lt;/b&gt;",
        "prefers-color-scheme: dark",
    ):
        assert text in report
    assert "<b>Q</b>" not in report and "http" not in report.replace("http://www.w3.org", "")  # it asks for nothing from elsewhere
    second = build("two", rows(300, 5))
    assert second.reference == version.id and "compared with version" in second.report.fetch(home).read_text()


def nights(build, home, count, name):
    """Versions of this many nights, each with a batch of feedback more than the one before."""
    first = datetime(2026, 1, 1, 2, tzinfo=UTC)
    return [build(f"{name}_{night}", None, f'ingest.interval_end="{(first + timedelta(days=night)).isoformat()}"').id for night in range(count)]


@pytest.mark.parametrize("count", [3, pytest.param(30, marks=pytest.mark.slow)])
def test_backfilled_nights_are_the_same_versions(build, home, count):
    texts = rows(60 + count * 4, 3)
    (home / "records.jsonl").write_text("".join(json.dumps(t) + "\n" for t in texts[:60]))
    for night in range(1, count):
        feedback_of(night, texts[60 + night * 4 : 64 + night * 4], home)
    lived = nights(build, home, count, "night")
    entries = {v.id: v for v in datasets.versions()}
    assert len(set(lived)) == count and [entries[later].reference for later in lived[1:]] == lived[:-1]
    shutil.rmtree(home / "store" / "cache")
    assert nights(build, home, count, "again") == lived
    assert {v.id: v for v in datasets.versions()} == entries
    again = manifest.read_for(f"{settings().store}/runs/t/again_{count - 1}", "dataset")
    assert not again.cached_from and datasets.reference_of(again.inputs) == lived[-2]


def test_the_same_night_on_two_checkouts(home, tiny_model, tmp_path):
    """Other folders, another order of the files, another home: the same version."""
    found, records = [], rows(60)
    for number in (0, 1):
        checkout, own = tmp_path / f"checkout {number}", tmp_path / f"home{number}"
        own.mkdir()
        for room in ("flywheel", "tasks", "rag", "config"):
            shutil.copytree(REPOSITORY / room, checkout / room, ignore=shutil.ignore_patterns("__pycache__"))
        random.Random(number).shuffle(records)
        for half in (0, 1):
            (own / f"{'ab'[half ^ number]}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records[half::2]))
        source = SOURCE.format(path=own / "*.jsonl")
        (own / "c.yaml").write_text(
            f"model: {{base: '{tiny_model}'}}\ningest: {{sources: [{source}]}}\nclean: {{steps: [unicode, length, exact_duplicates, decontamination]}}\n"
        )
        run = own / "store" / "runs" / "t" / "one"
        os.environ["FLYWHEEL_HOME"] = str(own)  # the home fixture puts it back
        settings.cache_clear()
        for module in STAGES:
            command = [sys.executable, "-m", f"tasks.{module.STAGE.name}", "--config", f"{own}/c.yaml", "--run-dir", str(run)]
            done = subprocess.run(command, cwd=checkout, env=dict(os.environ), capture_output=True, text=True)
            assert done.returncode == 0, done.stdout
        found.append(manifest.read_for(str(run), "dataset").metrics["version"])
    assert found[0] == found[1]


@pytest.mark.slow
def test_the_jargon_file_and_foldoc_pass_through_every_stage(build, home, tiny_model, tmp_path):
    missing = debian.fetch(tmp_path / "debian")
    if missing:
        pytest.skip(missing)
    build_real(home, tmp_path / "debian", str(tiny_model))
    (version,) = datasets.versions()
    assert sum(version.records.values()) > 12_000 and {s.name for s in version.sources} == {"jargon", "foldoc"}
    run = f"{settings().store}/runs/t/real"
    collected = manifest.read_for(run, "ingest").outputs["records"].rows
    rejected = manifest.read_for(run, "clean").outputs["quarantine"].rows
    assert collected == sum(version.records.values()) + rejected and rejected > 100
    page = version.report.fetch(home).read_text()
    assert "GFDL-1.2-or-later" in page and "near duplicate" in page and len(page) < 500_000


def build_real(home, folder, base, *changes):
    """The data stages on both books."""
    sources = []
    for book, (licence, consent, _) in debian.BOOKS.items():
        path = home / f"{book}.jsonl"
        path.write_text("".join(json.dumps(r) + "\n" for r in debian.records(folder, book)))
        sources.append(f"{{kind: files, name: {book}, path: '{path}', licence: {licence}, consent: {consent}}}")
    (home / "real.yaml").write_text(f"model: {{base: '{base}'}}\ningest: {{sources: [{', '.join(sources)}]}}\n")
    run, conf = f"{settings().store}/runs/t/real", config.load(str(home / "real.yaml"), changes)
    for module in STAGES:
        stage.execute(module.STAGE, conf, run)
    return run
