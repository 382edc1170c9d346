"""The stage as a whole: what it writes is a function of the records alone, whatever their order, place, and interruptions."""

import gzip
import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from flywheel import config, manifest, stage
from flywheel.errors import ContractError, DataError
from flywheel.records import Example
from flywheel.settings import REPOSITORY, settings
from tasks import ingest, sources
from tasks.sources import sorting
from tests.conftest import free_port


def conf(*sources, **options):
    found = [{"kind": "files", "licence": "CC0-1.0", "consent": "made here", **source} for source in sources]
    return config.Config.model_validate({"ingest": {"sources": found, "feedback": False, **options}})


def rows(count, start=0):
    return [{"instruction": f"Question {n}?", "output": f"Answer {n}."} for n in range(start, start + count)]


def write(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return str(path)


def examples(done):
    return [Example.model_validate_json(line) for line in done.outputs["records"].fetch(settings().home / "cache").read_bytes().splitlines()]


def test_one_instruction_over_many_inputs_falls_on_every_side(home, tmp_path):
    found = [{"instruction": "Classify the sentence.", "input": f"sentence {i}", "output": "good" if i % 2 else "bad"} for i in range(200)]
    done = stage.execute(ingest.STAGE, conf({"path": write(tmp_path / "a.jsonl", [*found, *found[:20]])}, heldout=0.2), str(tmp_path / "run"))
    records = examples(done)
    counts = Counter(r.split for r in records)
    assert counts["heldout"] > 20 and counts["train"] > 100
    sides = {r.input: {s.split for s in records if s.input == r.input} for r in records}
    assert all(len(s) == 1 for s in sides.values())
    assert done.metrics["duplicates"] == 20 and done.metrics["records"] == 220, "kept, and counted"


def test_every_form_becomes_a_record(home, tmp_path):
    system, turn, answer = {"role": "system", "content": "S"}, {"role": "user", "content": "Opening?"}, {"role": "assistant", "content": "A"}
    found = [
        {"messages": [system, turn, answer]},
        {"messages": [system, turn, answer, {"role": "user", "content": "And then?"}, answer]},
        {"prompt": "P", "chosen": "good", "rejected": "bad"},
        {"prompt": "P", "completion": "C", "label": False},
        {"instruction": "I", "output": "O", "group": "g", "slice": "s"},
        {"instruction": " ", "output": "O"},
    ]
    done = stage.execute(ingest.STAGE, conf({"path": write(tmp_path / "a.jsonl", found), "name": "mine"}), str(tmp_path / "run"))
    records = examples(done)
    assert sorted(r.kind for r in records) == ["preference", "supervised", "supervised", "supervised", "thumb"]
    assert len({r.group for r in records if r.history}) == 1, "a conversation stays on one side"
    assert {r.source for r in records} == {"mine"} and all(r.id == r.edited().id for r in records)
    assert (done.metrics["read"], done.metrics["rejected"]) == (5, 1)
    (bad,) = map(json.loads, done.outputs["quarantine"].fetch(tmp_path).read_text().splitlines())
    assert (bad["line"], bad["reason"]) == (6, "`instruction` is empty") and json.loads(bad["text"]) == found[5]
    assert [r.id for r in records] == sorted(r.id for r in records)


def test_the_same_records_give_the_same_bytes_whatever_their_order_and_place(home, tmp_path, monkeypatch):
    monkeypatch.setattr(sorting, "RUN_BYTES", 20_000)
    found = [*rows(400), *rows(50), *({"instruction": n} for n in range(9))]
    random.Random(1).shuffle(found)
    write(tmp_path / "one/a.jsonl", found[:300])
    write(tmp_path / "one/b.jsonl", found[300:])
    random.Random(2).shuffle(found)
    write(tmp_path / "two/checkout/z.jsonl", found[:100])
    write(tmp_path / "two/checkout/y.jsonl", found[100:])
    first = stage.execute(ingest.STAGE, conf({"path": f"{tmp_path}/one/*.jsonl"}), str(tmp_path / "runs/1"))
    parts = [{"path": f"{tmp_path}/two/checkout/{name}.jsonl"} for name in "zy"]
    rejected = set()
    for number, listed in enumerate((parts, parts[::-1])):
        again = stage.execute(ingest.STAGE, conf(*listed), str(tmp_path / f"elsewhere/{number}"))
        assert not again.cached_from and again.outputs["records"].sha256 == first.outputs["records"].sha256
        assert again.outputs["records"].rows == 450 and again.outputs["quarantine"].rows == 9
        rejected.add(again.outputs["quarantine"].sha256)
    assert len(rejected) == 1


def test_limit_keeps_the_smallest_ids_of_each_split(home, tmp_path):
    path = write(tmp_path / "a.jsonl", [*rows(300), *rows(300)])
    whole = examples(stage.execute(ingest.STAGE, conf({"path": path}, heldout=0.3), str(tmp_path / "1")))
    done = stage.execute(ingest.STAGE, conf({"path": path}, heldout=0.3, limit=20), str(tmp_path / "2"))
    for split in ("train", "heldout"):
        expected = sorted({r.id for r in whole if r.split == split})[:20]
        assert [r.id for r in examples(done) if r.split == split] == [i for i in expected for _ in range(2)]
    assert done.metrics["duplicates"] == 40


@pytest.mark.parametrize("nights", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_backfilled_nights_are_the_nights_that_were(home, tmp_path, nights):
    first = datetime(2026, 1, 1, tzinfo=UTC)

    def night(number, where):
        end = (first + timedelta(days=number, hours=2)).isoformat()
        dated = [{"path": f"{tmp_path}/log.jsonl", "time": "at"}, {"path": f"{tmp_path}/day-{{date}}.jsonl", "name": "days"}]
        return stage.execute(ingest.STAGE, conf(*dated, interval_end=end), str(tmp_path / where / str(number))).outputs["records"].sha256

    write(tmp_path / "day-2025-12-31.jsonl", rows(3, 10_000))
    lived = []
    for number in range(nights):
        with open(tmp_path / "log.jsonl", "a") as file:
            file.writelines(json.dumps({**row, "at": (first + timedelta(days=number, hours=1)).isoformat()}) + "\n" for row in rows(3, number * 10))
        write(tmp_path / f"day-{first + timedelta(days=number):%Y-%m-%d}.jsonl", rows(2, 5000 + number * 10))
        lived.append(night(number, "lived"))
    shutil.rmtree(home / "store/cache")
    assert [night(number, "backfilled") for number in range(nights)] == lived
    assert len(set(lived)) == nights


def test_the_run_refuses_to_go_without_licence_and_consent(tmp_path):
    for left_out in ("licence", "consent"):
        source = {"kind": "files", "path": "x.jsonl", "licence": "x", "consent": "y", left_out: " "}
        (tmp_path / "c.yaml").write_text(json.dumps({"ingest": {"sources": [source]}}))
        with pytest.raises(ContractError, match=left_out):
            config.load(str(tmp_path / "c.yaml"))
    (tmp_path / "c.yaml").write_text("ingest: {sources: [{kind: docs, licence: x, consent: y, path: z}]}")
    with pytest.raises(ContractError, match=r"unknown key `.*docs\.path`"):
        config.load(str(tmp_path / "c.yaml"))


def test_the_page_about_sources_shows_a_valid_config():
    (block,) = re.findall(r"```yaml\n(.*?)```", (REPOSITORY / "docs/sources.md").read_text(), re.DOTALL)
    shown = config.Config.model_validate(yaml.safe_load(block)).ingest.sources
    assert {source.kind for source in shown} == set(sources.KINDS)


def test_a_source_that_breaks_half_way_leaves_no_half_output(home, tmp_path):
    good = write(tmp_path / "a.jsonl", rows(10))
    (tmp_path / "b.csv").write_text("question,answer\n1,2\n")
    with pytest.raises(DataError, match="missing"):
        stage.execute(ingest.STAGE, conf({"path": good}, {"path": f"{tmp_path}/b.csv"}), str(tmp_path / "run"))
    assert not (tmp_path / "run/ingest/manifest.json").exists()


@pytest.mark.parametrize(
    ("source", "code", "words"),
    [
        ({"kind": "files", "path": "{folder}/header.csv"}, 3, "is missing"),
        ({"kind": "files", "path": "{folder}/cut.jsonl.gz"}, 3, "ends early"),
        ({"kind": "files", "path": "{folder}/none.jsonl"}, 2, "no such file"),
        ({"kind": "sql", "query": "select 'Q' as instruction, json_extract(value, '$') as output from (values ('1'), ('{{broken'))", "url_variable": "CHATS"}, 3, "query failed"),
        ({"kind": "sql", "query": "select 1", "url_variable": "NOT_SET"}, 2, "NOT_SET"),
        ({"kind": "http", "url": "http://127.0.0.1:{port}/", "attempts": 1}, 75, "cannot be reached"),
        ({"kind": "hub", "dataset": "{folder}"}, 3, "cannot be read"),
    ],
)  # fmt: skip
def test_a_broken_source_ends_in_a_sentence_and_the_contracts_code(home, tmp_path, monkeypatch, capsys, source, code, words):
    (tmp_path / "header.csv").write_text("question,answer\n1,2\n")
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(json.dumps(rows(1)[0]).encode())[:-4])
    monkeypatch.setenv("CHATS", f"sqlite:///{tmp_path}/chats.db")
    found = {name: value.format(folder=tmp_path, port=free_port()) if isinstance(value, str) else value for name, value in source.items()}
    (tmp_path / "c.yaml").write_text(json.dumps({"ingest": {"sources": [{**found, "licence": "x", "consent": "y"}], "feedback": False}}))
    with pytest.raises(SystemExit) as caught:
        stage.main(ingest.STAGE, ["--config", str(tmp_path / "c.yaml"), "--run-dir", str(tmp_path / "run")])
    said = "".join(capsys.readouterr())
    assert caught.value.code == code and words in said and "Traceback" not in said
    assert not (tmp_path / "run/ingest/manifest.json").exists()


KILLED_CONFIG = "ingest: {{sources: [{{kind: files, path: '{path}', licence: x, consent: y}}], feedback: false}}"


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_at_random_moments_and_tried_again(home, tmp_path, kills):
    """SIGKILL, anywhere: a manifest that can be seen is complete, and the retry ends with the same bytes."""
    write(tmp_path / "a.jsonl", rows(8000))
    (tmp_path / "c.yaml").write_text(KILLED_CONFIG.format(path=tmp_path / "a.jsonl"))

    def start(name):
        command = [sys.executable, "-m", "tasks.ingest", "--config", str(tmp_path / "c.yaml"), "--run-dir", str(tmp_path / name / "run")]
        environment = {**os.environ, "FLYWHEEL_STORE": str(tmp_path / name)}
        return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=subprocess.DEVNULL)

    def seen(name):
        """The manifest there is, with every output checked against it."""
        path = tmp_path / name / "run/ingest/manifest.json"
        if not path.exists():
            return None
        found = manifest.read(str(path))
        for artifact in found.outputs.values():
            artifact.verify(tmp_path / name / artifact.uri)
        return found.outputs["records"].sha256

    before = time.monotonic()
    assert start("whole").wait() == 0
    took, expected = time.monotonic() - before, seen("whole")
    dice, interrupted = random.Random(kills), 0
    for number in range(kills):
        name = f"killed-{number}"
        process = start(name)
        time.sleep(took * (number + dice.random()) / kills)
        process.kill()
        interrupted += process.wait() != 0
        assert seen(name) in (None, expected)
        assert start(name).wait() == 0 and seen(name) == expected
        assert not [p for p in (tmp_path / name).rglob("*") if p.is_file() and p.name not in ("records.jsonl", "quarantine.jsonl") and p.suffix != ".json" and "spend" not in p.parts]  # fmt: skip
    assert interrupted >= kills / 2


@pytest.mark.slow
def test_memory_stays_bounded_as_data_grows(home, tmp_path):
    def peak(count):
        with open(tmp_path / "a.jsonl", "w") as file:
            file.writelines(
                json.dumps({"instruction": f"Question {n}? {'why ' * 30}", "output": f"Answer {n}. {'because ' * 25}"}) + "\n" for n in range(count)
            )
        (tmp_path / "c.yaml").write_text(KILLED_CONFIG.format(path=tmp_path / "a.jsonl"))
        command = [sys.executable, "-m", "tasks.ingest", "--config", str(tmp_path / "c.yaml"), "--run-dir", str(tmp_path / f"run-{count}")]
        process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        assert status == 0
        return usage.ru_maxrss

    small, large = peak(100_000), peak(1_000_000)
    print(f"\n100,000 records: {small / 1024:.0f} MB, 1,000,000: {large / 1024:.0f} MB")
    assert large < 1 << 20 and large < 2 * small
