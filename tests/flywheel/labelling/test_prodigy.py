"""Prodigy's files: to the byte, with its hashes, and a sentence for what is of another recipe."""

import json

import pytest
import sqlalchemy as sa

from flywheel import ledger
from flywheel.errors import ContractError
from flywheel.labelling import prodigy
from flywheel.ledger import schema
from tests.labelling import offered

# As Prodigy writes them: ujson's escapes, hashes below zero, a pattern of fields of its own; and as editors leave them.
FILE = (
    b'{"text":"caf\\u00e9 / \\ud83d\\ude00","meta":{"score":0.5},"_input_hash":-1451003541,"_task_hash":9007199254740993,"options":[],"accept":["a"],'
    b'"_timestamp":1700000000.1,"answer":"accept","_view_id":"choice"}\n'
    b'\n'
    b'{ "answer": "reject",  "text": "caf\xc3\xa9", "text": "twice", "_task_hash": 1e2 }\r\n'
    b'{"text":"no end of line","answer":"ignore"}'
)  # fmt: skip


@pytest.mark.parametrize("data", [FILE, b"\xef\xbb\xbf" + FILE, FILE + b"\r\n\r\n", b""])
def test_what_is_read_is_written_to_the_byte(data):
    assert prodigy.write(prodigy.read(data, "f")) == data


def test_a_changed_line_keeps_its_hashes_and_the_others_their_bytes():
    lines = prodigy.read(FILE, "f")
    lines[0] = lines[0].changed(answer="reject")
    written = prodigy.write(lines)
    assert written.split(b"\n", 1)[0] == FILE.split(b"\n", 1)[0].replace(b'"answer":"accept"', b'"answer":"reject"')
    assert written.split(b"\n", 1)[1] == FILE.split(b"\n", 1)[1]


def annotated(data, **by_item):
    """What `db-out` gives: hashes, an annotator, and what was chosen."""
    for number, line in enumerate(prodigy.read(data, "todo")):
        said = {"_input_hash": number, "_task_hash": -number, "_view_id": "blocks", "answer": "accept", "_annotator_id": "review-ada"}
        yield line.changed(**(said | by_item.get(f"n{number}", {"accept": ["approve"]})))


def test_waiting_items_go_out_and_come_back_once(database):
    right, edited, ignored, unsure = items = offered(4, "rather")
    todo = prodigy.tasks(items)
    assert b"_hash" not in todo  # Prodigy's to make
    done = prodigy.write(annotated(todo, n1={"accept": ["edit"], "edited": "it is this"}, n2={"answer": "ignore"}, n3={"accept": []}))
    taken = prodigy.take_in(done, "done.jsonl", 1)
    assert (taken.new, taken.decided, taken.skipped) == (4, 2, 1) and len(taken.said) == 1 and "no verdict" in taken.said[0]
    again = prodigy.take_in(done, "done.jsonl", 1)
    assert (again.new, again.decided, again.skipped, again.said) == (0, 0, 0, [])
    with ledger.transaction() as db:
        rows = {row.item: row for row in db.execute(sa.select(schema.decisions))}
    record = ledger.record_of(ledger.find(rows[edited.id].feedback_id))
    assert (record.correction, record.user, record.source, record.model_version) == ("it is this", "review-ada", "review", "3")
    assert {i: row.decision for i, row in rows.items()} == {right.id: "approve", edited.id: "edit", ignored.id: "skip"} and unsure.id not in rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"_view_id": "ner_manual"}, r"line 2: this is of another recipe \(ner_manual\)"),
        ({"spans": []}, r"another recipe \(spans\)"),
        ({"meta": {}}, "meta.item"),
        ({"answer": None}, "none of accept, reject, ignore"),
    ],
)
def test_a_file_of_another_recipe_is_a_sentence_and_nothing_is_taken(database, change, words):
    todo = prodigy.tasks(offered(2))
    lines = list(annotated(todo))
    lines[1] = lines[1].changed(**change)
    with pytest.raises(ContractError, match=words):
        prodigy.take_in(prodigy.write(lines), "done.jsonl", 1)
    with ledger.transaction() as db:
        assert db.execute(sa.select(schema.decisions)).first() is None


def test_what_is_no_jsonl_names_its_line():
    for text in (b'{"a": 1}\n{broken', b"{}\n[1]"):
        with pytest.raises(ContractError, match=r"f, line 2"):
            prodigy.read(text, "f")
    assert json.loads(prodigy.dump({"a": "\u00e9"})) == {"a": "\u00e9"}
