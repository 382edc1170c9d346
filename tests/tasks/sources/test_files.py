"""Every format and every place, what breaks them, and the account of every line."""

import csv
import gzip
import io
import json
import random
import resource

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from flywheel.errors import ContractError, DataError, TransientError
from tasks.sources import lines
from tests.conftest import free_port
from tests.tasks.sources.conftest import GOOD, parted, reader

TWO = [GOOD, {"instruction": "Two\nlines, and a comma", "input": "x", "output": "ö"}]


def files(path, **options):
    return reader(kind="files", path=str(path), **options)


def jsonl(*records):
    return "".join(json.dumps(r) + "\n" for r in records).encode()


def test_every_format_gives_the_same_rows(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(*TWO))
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(jsonl(*TWO)))
    pd.DataFrame(TWO).to_csv(tmp_path / "c.csv", index=False)
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress((tmp_path / "c.csv").read_bytes()))
    pd.DataFrame(TWO).to_parquet(tmp_path / "e.parquet")
    (tmp_path / "f.data").write_bytes(jsonl(*TWO))
    found = [parted(files(p, **({"format": "jsonl"} if p.suffix == ".data" else {}))) for p in sorted(tmp_path.iterdir())]
    assert len(found) == 6 and all(f == found[0] for f in found) and [r.output for r in found[0][0]] == ["hi", "ö"]


def test_each_bad_line_is_named(tmp_path):
    bad = [b"{broken", b'{"instruction": 5, "output": "x"}', b'{"output": "x"}', b"[]", b'{"instruction": "\xff", "output": "x"}',
           b'{"instruction": "a\0b", "output": "x"}', b'{"instruction": "a", "output": NaN}', b'{"instruction": {"a": [1]}, "output": "x"}']  # fmt: skip
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join([jsonl(GOOD).strip(), *bad, b"", b" ", jsonl(GOOD).strip()]))
    rows, rejected = parted(files(tmp_path / "a.jsonl"))
    assert len(rows) == 2
    assert [r.line for r in rejected] == [2, 3, 4, 5, 6, 7, 8, 9]
    assert all(r.reason and r.text for r in rejected)
    assert "`instruction`" in rejected[1].reason and "`instruction` is missing" in rejected[2].reason and "not a JSON object" in rejected[3].reason


def test_bad_rows_of_a_csv(tmp_path):
    content = b'instruction,output\r\nSay hi,hi\r\n\r\n"one\r\ntwo",2\r\n\xff\xfe,x\r\na,b,c\r\nalone\r\nSay,"a"b\r\nlast,one\r\n"never closed,x\r\n'
    (tmp_path / "a.csv").write_bytes(b"\xef\xbb\xbf" + content)
    rows, rejected = parted(files(tmp_path / "a.csv"))
    assert [r.output for r in rows] == ["hi", "2", "one"]
    assert [r.line for r in rejected] == [6, 7, 8, 9, 11]
    assert "UTF-8" in rejected[0].reason and "3 fields" in rejected[1].reason and "not CSV" in rejected[3].reason


def test_bad_rows_of_parquet(tmp_path):
    texts = pa.Array.from_buffers(pa.utf8(), 3, [None, pa.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pa.py_buffer(b"a\xffc")])
    parquet.write_table(pa.table({"instruction": texts, "output": ["x", "y", None], "other": [1, 2, 3]}), tmp_path / "a.parquet")
    rows, rejected = parted(files(tmp_path / "a.parquet"))
    assert [r.instruction for r in rows] == ["a"]
    assert [(r.line, r.reason[:20]) for r in rejected] == [(2, "the text is not UTF-"), (3, "`output` is missing")]


def test_plain_text(tmp_path):
    (tmp_path / "On tea.txt").write_bytes(b"\xef\xbb\xbf\r\nBoil water.\r\nWait.\r\n\r\n\r\nPour it.\r\n\r\n\xff\r\n")
    rows, rejected = parted(files(tmp_path / "On tea.txt", each="paragraph", question="{title}, part {number}?"))
    assert [(r.instruction, r.output) for r in rows] == [("On tea, part 1?", "Boil water.\nWait."), ("On tea, part 2?", "Pour it.")]
    assert {r.group for r in rows} == {"On tea"} and [r.line for r in rejected] == [8]
    (tmp_path / "b.txt").write_text("one\n\ntwo\n")
    assert [(r.instruction, r.output) for r in parted(files(tmp_path / "b.txt"))[0]] == [("b", "one\n\ntwo")]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"question,answer\n1,2\n", "`instruction` is missing"),
        ("a.csv", b"instruction,output,output\n1,2,3\n", "`output` is there twice"),
        ("a.csv", b'"instruction,output\n1,2\n', "the header cannot be read"),
        ("a.csv", b"\xff\xfei\0n\0", "UTF-16"),
        ("a.csv", b"\n\n", "empty"),
        ("a.csv", b"instruction,output\n" + b"x" * 10, None),
        ("a.parquet", b"not parquet", "not a Parquet file"),
        ("a.parquet", b"", "not a Parquet file"),
        ("a.jsonl", b"PAR1\0\0", "it is Parquet"),
        ("a.jsonl", b"", "empty"),
        ("a.jsonl", b"\xef\xbb\xbf\r\n \n", "empty"),
        ("a.jsonl", b"\n<!DOCTYPE html><html>", "web page"),
        ("a.jsonl.gz", gzip.compress(jsonl(*TWO * 50))[:-12], "damaged or ends early"),
        ("a.csv.gz", gzip.compress(b"instruction,output\n1,2\n")[:-8] + bytes(8), "damaged or ends early"),
        ("a.csv.gz", b"", "empty"),
        ("a.txt", b" \n", "empty"),
    ],
)
def test_a_file_that_is_not_what_it_says(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    if words is None:
        assert len(parted(files(tmp_path / name))[1]) == 1
        return
    with pytest.raises(DataError, match=words) as caught:
        parted(files(tmp_path / name))
    assert name in caught.value.sentence


def test_a_parquet_file_that_ends_early(tmp_path):
    parquet.write_table(pa.table({"instruction": ["a"] * 5000, "output": [str(i) for i in range(5000)]}), tmp_path / "a.parquet", row_group_size=1000)
    whole = (tmp_path / "a.parquet").read_bytes()
    (tmp_path / "a.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged"):
        parted(files(tmp_path / "a.parquet"))
    (tmp_path / "a.parquet").write_bytes(whole[:2000] + bytes(4000) + whole[6000:])
    with pytest.raises(DataError, match="damaged"):
        parted(files(tmp_path / "a.parquet"))


def test_paths_that_lead_nowhere(tmp_path):
    for path, words in [("none.jsonl", "no such file"), ("*.jsonl", "no file matches"), (".", "kind|folder")]:
        with pytest.raises(ContractError, match=words):
            parted(files(tmp_path / path))
    (tmp_path / "folder.jsonl").mkdir()
    with pytest.raises(ContractError, match="folder"):
        parted(files(tmp_path / "folder.jsonl"))


def test_one_empty_file_of_many_is_a_rejection(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"")
    (tmp_path / "b.jsonl").write_bytes(jsonl(GOOD))
    rows, rejected = parted(files(tmp_path / "*.jsonl"))
    assert len(rows) == 1 and [r.reason for r in rejected] == ["the file is empty"]


def test_a_line_of_50_mb_is_rejected_and_not_held(tmp_path):
    with open(tmp_path / "a.jsonl", "wb") as file:
        file.write(jsonl(GOOD) + b'{"instruction": "')
        for _ in range(50):
            file.write(b"x" * (1 << 20))
        file.write(b'", "output": "y"}\n' + jsonl(GOOD))
    (tmp_path / "a.csv").write_bytes(b'instruction,output\n"' + b"x" * (5 << 20) + b'",y\na,b\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows, rejected = parted(files(tmp_path / "a.jsonl"))
    assert len(rows) == 2 and [(r.line, len(r.text)) for r in rejected] == [(2, 2000)] and "bytes" in rejected[0].reason
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 30 * 1024, "kB"
    rows, rejected = parted(files(tmp_path / "a.csv"))
    assert len(rows) == 1 and [r.line for r in rejected] == [2]


def test_a_date_in_the_path_is_cut_off_by_the_interval(tmp_path):
    for day in ("2026-01-01", "2026-01-02", "20260103", "notes"):
        (tmp_path / f"chat-{day}.jsonl").write_bytes(jsonl({"instruction": day, "output": "x"}))
    path = tmp_path / "chat-{date}.jsonl"

    def of(until):
        return reader(until, kind="files", path=str(path))

    assert [r.instruction for r in parted(of("2026-01-03T02:00:00+00:00"))[0]] == ["2026-01-01", "2026-01-02"], "a day counts when it is over"
    assert len(parted(of(""))[0]) == 3 and parted(of("2025-01-01T00:00:00+00:00")) == ([], [])
    night = of("2026-01-03T02:00:00+00:00").identity()
    (tmp_path / "chat-2026-01-04.jsonl").write_bytes(jsonl(GOOD))
    assert of("2026-01-03T02:00:00+00:00").identity() == of("2026-01-03T23:00:00+00:00").identity() == night, "what came later changes nothing"
    (tmp_path / "chat-2026-01-02.jsonl").write_bytes(jsonl(GOOD))
    assert of("2026-01-03T02:00:00+00:00").identity() != night


def test_a_time_in_the_record_is_cut_off_by_the_interval(tmp_path):
    path = tmp_path / "a.jsonl"
    times = ["2026-01-01T10:00:00Z", 1767348000, "2026-01-03", None, "yesterday", True]
    path.write_bytes(jsonl(*({"instruction": f"{i}", "output": "x", "at": {"made": t}} for i, t in enumerate(times))))

    def of(until):
        return reader(until, kind="files", path=str(path), time="at.made")

    one = of("2026-01-02T12:00:00+00:00")
    rows, rejected = parted(one)
    assert [r.instruction for r in rows] == ["0", "1"] and [r.line for r in rejected] == [4, 5, 6] and one.later == 1
    night = of("2026-01-02T12:00:00+00:00").identity()
    with open(path, "ab") as file:
        file.write(jsonl({"instruction": "new", "output": "x", "at": {"made": "2026-02-01"}}))
    again = of("2026-01-02T13:00:00+00:00")
    assert again.identity() == night, "it hangs on what is taken, not on the file or the moment"
    assert len(parted(again)[0]) == 2 and again.later == 2
    assert of("2026-02-02T00:00:00+00:00").identity() != night


def test_identity_follows_the_content(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl(GOOD))
    one = files(tmp_path / "*.jsonl").identity()
    assert files(tmp_path / "*.jsonl").identity() == one
    (tmp_path / "b.jsonl").write_bytes(jsonl(GOOD))
    assert files(tmp_path / "*.jsonl").identity() != one


def test_an_object_store(bucket, monkeypatch):
    name, fs = bucket
    path = f"s3://{name}/in/*.jsonl.gz"
    with pytest.raises(ContractError, match="no file matches"):
        parted(files(path))
    for part in "ab":
        fs.pipe_file(f"{name}/in/{part}.jsonl.gz", gzip.compress(jsonl(*TWO)))
    one = files(path).identity()
    assert len(parted(files(path))[0]) == 4 and files(path).identity() == one
    fs.pipe_file(f"{name}/in/b.jsonl.gz", gzip.compress(jsonl(GOOD)))
    assert files(path).identity() != one and len(parted(files(path))[0]) == 3
    buffer = io.BytesIO()
    pd.DataFrame(TWO).to_parquet(buffer)
    fs.pipe_file(f"{name}/a.parquet", buffer.getvalue())
    assert len(parted(files(f"s3://{name}/a.parquet"))[0]) == 2
    with pytest.raises(ContractError, match="no such file"):
        parted(files(f"s3://{name}/none.jsonl"))
    with pytest.raises(ContractError, match="no such file"):
        files(f"s3://no-such-{name}/none.jsonl").identity()


def test_an_object_store_that_is_away(monkeypatch):
    import fsspec

    for variable, value in {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{free_port()}",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr("s3fs.core.S3FileSystem.retries", 1)
    fsspec.filesystem("s3").clear_instance_cache()
    with pytest.raises(TransientError, match="does not answer"):
        files("s3://b/a.jsonl").identity()
    fsspec.filesystem("s3").clear_instance_cache()


def test_an_object_store_without_credentials(monkeypatch):
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ContractError, match="connection_string"):
        files("abfs://container/a.jsonl").identity()


def test_a_web_address(server):
    server.routes |= {"/a.jsonl": (200, jsonl(*TWO), {}), "/moved.jsonl": (302, b"", {"Location": "/a.jsonl"}), "/page.jsonl": (200, b"<html>log in", {})}
    one = files(f"{server.url}/a.jsonl")
    assert one.identity() == files(f"{server.url}/a.jsonl").identity()
    assert len(parted(one)[0]) == 2 and server.paths() == ["/a.jsonl"] * 2, "what identity fetched is what is read"
    assert len(parted(files(f"{server.url}/moved.jsonl?x=1"))[0]) == 2
    for path, words in [("/none.jsonl", "404"), ("/page.jsonl", "web page")]:
        with pytest.raises(DataError, match=words):
            parted(files(server.url + path))


texts = st.text(st.characters(codec="utf-8"), max_size=20)
values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), texts, st.lists(texts, max_size=2), st.dictionaries(texts, texts, max_size=2))
records = st.dictionaries(st.sampled_from(["instruction", "input", "output", "messages", "prompt", "completion", "label", "other"]), values)
raw_lines = st.one_of(records.map(lambda r: json.dumps(r).encode()), st.binary(max_size=60).map(lambda b: b.replace(b"\n", b"")))


@settings(max_examples=150, deadline=None)
@given(st.lists(raw_lines, max_size=8))
def test_jsonl_in_is_out_plus_rejected(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("h") / "a.jsonl"
    path.write_bytes(b"\n".join([jsonl(GOOD).strip(), *found]))
    rows, rejected = parted(files(path))
    assert len(rows) + len(rejected) == 1 + sum(bool(line.strip()) for line in found)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(texts, min_size=1, max_size=4).filter(any), max_size=8))
def test_csv_in_is_out_plus_rejected(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("h") / "a.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["instruction", "input", "output"], *found])
    rows, rejected = parted(files(path))
    assert len(rows) + len(rejected) == len(found)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.fixed_dictionaries({"instruction": st.none() | texts, "output": st.none() | texts, "label": st.none() | st.integers(0, 3)}), max_size=8))
def test_parquet_in_is_out_plus_rejected(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("h") / "a.parquet"
    schema = pa.schema({"instruction": pa.string(), "output": pa.string(), "label": pa.int64()})
    parquet.write_table(pa.Table.from_pylist(found, schema=schema), path)
    rows, rejected = parted(files(path))
    assert len(rows) + len(rejected) == len(found)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\r\n\0"), min_size=1).filter(lambda t: t.strip() and t.encode().strip()),
        min_size=1,
        max_size=8,
    )
)
def test_text_in_is_out_plus_rejected(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("h") / "a.txt"
    path.write_bytes("\n\n".join(found).encode())
    rows, rejected = parted(files(path, each="paragraph"))
    assert len(rows) + len(rejected) == len(found)


def fuzzed(count: int, seed: int) -> list[bytes]:
    """Random bytes, and JSON records with bytes changed, taken out or put in."""
    dice = random.Random(seed)
    base = jsonl(
        GOOD, {"messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "ö"}]}, {"prompt": "Q", "chosen": "A", "rejected": "B"}
    ).splitlines()
    made = []
    for _ in range(count):
        if dice.random() < 0.3:
            line = dice.randbytes(dice.randrange(1, 80))
        else:
            line = bytearray(dice.choice(base))
            for _ in range(dice.randrange(4)):
                at = dice.randrange(len(line))
                line[at : at + dice.randrange(3)] = dice.randbytes(dice.randrange(3))
        made.append(bytes(line).replace(b"\n", b"\r"))
    return made


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_fuzzed_lines_are_all_accounted_for(tmp_path, kind):
    found = fuzzed(100_000 if kind == "jsonl" else 20_000, 7)
    first = {"jsonl": jsonl(GOOD).strip(), "csv": b"instruction,output"}[kind]
    (tmp_path / f"a.{kind}").write_bytes(b"\n".join([first, *found]))
    rows, rejected = parted(files(tmp_path / f"a.{kind}"))
    if kind == "jsonl":
        assert len(rows) + len(rejected) == 1 + sum(bool(line.strip()) for line in found)
        assert 10_000 < len(rows) < 60_000
    else:
        assert 0 < len(rows) + len(rejected) <= len(found) + 1
    for bad in rejected:
        assert bad.reason and len(bad.text) <= 2000
        json.dumps([bad.reason, bad.text]).encode()
        (bad.reason + bad.text).encode()


def test_lines_that_cross_chunks(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "CHUNK", 7)
    monkeypatch.setattr(lines, "LONGEST", 60)
    (tmp_path / "a.jsonl").write_bytes(jsonl(GOOD, GOOD) + b"x" * 100 + b"\n" + jsonl(GOOD))
    rows, rejected = parted(files(tmp_path / "a.jsonl"))
    assert len(rows) == 3 and [(r.line, "100 bytes" in r.reason) for r in rejected] == [(3, True)]
