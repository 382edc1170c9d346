import json

import pandas as pd
import pytest

from flywheel.config import Source
from flywheel.errors import ContractError
from tasks import sources
from tasks.sources import Rejected

GOOD = {"instruction": "Say hi", "input": "", "output": "hi"}


def read(path):
    return list(sources.read(Source(kind="files", path=str(path), licence="x", consent="y")))


def test_three_formats_give_the_same_rows(tmp_path):
    rows = [GOOD, {"instruction": "Two\nlines, and a comma", "input": "x", "output": "ö"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pd.DataFrame(rows).to_csv(tmp_path / "a.csv", index=False)
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    assert len({str([row for _, _, row in read(tmp_path / f"a.{kind}")]) for kind in ("jsonl", "csv", "parquet")}) == 1


def test_each_bad_line_is_named(tmp_path):
    lines = [json.dumps(GOOD), "{broken", '{"instruction": 5, "output": "x"}', '{"output": "x"}', "[]", "", json.dumps(GOOD)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    found = read(tmp_path / "a.jsonl")
    bad = {r.line: r.reason for r in found if isinstance(r, Rejected)}
    assert sorted(bad) == [2, 3, 4, 5]
    assert "instruction" in bad[3] and "instruction" in bad[4]
    assert len(found) - len(bad) == 2


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.csv", b"question,answer\n1,2\n", "`instruction` is missing"),
        ("a.csv", b"\xff\xfe\x00bad", "UTF-8"),
        ("a.parquet", b"not parquet", "not a Parquet file"),
        ("a.jsonl", b"PAR1\0\0", "not JSONL"),
        ("a.txt", b"x", ".txt"),
    ],
)
def test_a_file_that_is_not_what_it_says(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ContractError, match=words):
        read(tmp_path / name)


def test_the_built_in_source_is_real_text():
    rows = [found[2] for found in sources.docs() if not isinstance(found, Rejected)]
    assert len(rows) > 2000
    assert any(row.instruction == "What does `shutil.copytree` do?" for row in rows)
    assert all(40 <= len(row.output) <= 500 for row in rows)
