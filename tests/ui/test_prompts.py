"""Files that people upload, the bad ones first."""

import json

import pytest

from ui.prompts import BadFile, read


@pytest.mark.parametrize(
    ("data", "name", "words"),
    [
        (b"\x00\x01\x02", "a.csv", "not a text file"),
        (b"", "a.csv", "names no column"),
        (b"prompt\n\n", "a.csv", "no prompt"),
        (b"age\n3\n", "a.csv", "it is: age"),
        (b'prompt,b\n"x', "a.csv", ""),
        (b"prompt\n" + b"x" * 200_000, "a.csv", "Line 2"),
        (b"prompt\n" + b"why?\n" * 10_001, "a.csv", "more than 10,000"),
        (b'{"prompt": 3}', "a.jsonl", "Line 1 has no prompt"),
        (b'"ok"\n[1]', "a.jsonl", "Line 2 has no prompt"),
        (b"[" * 100_000, "a.jsonl", "Line 1"),
        (b"\xff\xfe\x00", "a.csv", "says that it is utf-16"),
    ],
)
def test_a_bad_file_is_named_in_words(data, name, words):
    if words:
        with pytest.raises(BadFile, match=words):
            read(data, name)
    else:
        assert read(data, name) == (["x"], "")  # a quote that is not closed is closed by the end


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("between", [",", ";", "\t"])
def test_spreadsheets_of_every_kind(encoding, between):
    text = f'id{between}Question\r\n1{between}"Größe,\nund; mehr"\r\n\r\n2{between}Why?\r\n'
    assert read(text.encode(encoding), "a.CSV") == (["Größe,\nund; mehr", "Why?"], "")


def test_jsonl_and_a_guessed_encoding_is_told():
    assert read(json.dumps({"prompt": "a"}).encode() + b'\n\n"b"\n', "x.jsonl") == (["a", "b"], "")
    found, note = read("prompt\nGröße\n".encode("cp1252"), "x.csv")
    assert found == ["Größe"] and "Windows-1252" in note
