"""What the card and the report say of a version whose steps masked and rejected personal data."""

import json
from types import SimpleNamespace

import pytest

from flywheel import datasets
from flywheel.datasets import Profile
from flywheel.records import Example, example_id
from tasks import data_card, data_facts, data_report
from tasks.data_facts import Facts
from tasks.validation import BINS, Finding

MASK = {"step": "personal", "policy": "mask", "kinds": ["email"]}
COUNTS = {"counts": [5, 0, 3], "min": 3.0, "median": 20.0, "p95": 40.0, "p99": 44.0, "max": 60.0}


def example(instruction, output):
    name = example_id(instruction, "", output)
    return Example(id=name, instruction=instruction, output=output, group=instruction, slice="faq", source="crm", licence="own", consent="contract")


def profile(word):
    return Profile(records=8, lengths=[0, 0, 8, *[0] * (BINS - 3)], words={word: 0.25, "the": 0.5}, slices={"faq": 8})


@pytest.fixture
def facts():
    steps = [("reading", 12, 0, 2), ("personal", 10, 4, 1), ("near_duplicates", 9, 0, 1), ("token_limit", 8, 0, 3)]
    return Facts(
        run="manual", model="/models/x", cleaning={"steps": [{"step": "length"}, MASK]},
        funnel=[{"step": name, "in": given, "changed": changed, "rejected": out, "out": given - out} for name, given, changed, out in steps],
        rejected={"near_duplicates": [{"reason": "0.93 like 1", "text": "<script>alert(1)</script>", "answer": "x"}]},
        lengths={"limit": 50, "edges": [0, 20, 40, 60], "over_limit": 0.125, "prompt": COUNTS, "answer": COUNTS, "both": COUNTS},
        findings=[Finding(name="length_drift", outcome="warn", figure=0.5, limit=0.25, text="the lengths moved")], profile=profile("new"), before=profile("old"),
        reference="0" * 64, id="f" * 64, records=data_facts.Counter(train=7, heldout=1), kinds=data_facts.Counter(supervised=8), slices=data_facts.Counter(faq=8),
        sources=[datasets.SourceCount(name="crm", licence="own", consent="contract | signed", records=8)], samples=[example("*Why* <b>?", "Because.")],
    )  # fmt: skip


def test_the_card(facts):
    card = data_card.write(facts)
    for text in ("| crm | own | contract \\| signed | 8 |", "| near duplicates | 9 | 0 | 1 | 8 |", "4 records masked, 1 rejected", "policy: mask", "the lengths moved",
                 "`█ ▅`", "\\*Why\\* \\<b\\>?", "12.5% of the training records are longer than the limit of 50", "n<1K"):  # fmt: skip
        assert text in card


def test_the_report(facts):
    page = data_report.page(facts)
    for text in ("8 of 12 records were kept", "4 (33.3 %) were rejected", "3 are too long for the model", "1 check warns: the lengths moved", "near duplicates",
                 "&lt;script&gt;", "<td>new</td>", "policy: mask", "share of records"):  # fmt: skip
        assert text in page
    assert "<script" not in page and data_report.page(facts) == page


def test_what_is_private_is_not_shown(tmp_path):
    def lines(name, rows):
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    record = {"instruction": "Mail ada@example.org", "output": "key AKIA1234"}
    lines("ingest.quarantine", [{"file": "/srv/crm/x.jsonl", "line": 3, "reason": "this is no JSON", "text": "{ada@example.org"}] * 2)
    lines("clean.quarantine", [{"id": "1", "step": step, "reason": "why", "record": record} for step in ("personal", "secrets", "length", "length", "length")])
    found = data_facts.rejected(SimpleNamespace(fetch=lambda name: tmp_path / name), 2)
    assert {step: len(shown) for step, shown in found.items()} == {"reading": 1, "personal": 1, "secrets": 1, "length": 2}
    assert found["reading"][0]["text"] == "x.jsonl, line 3" and found["length"][0]["answer"] == record["output"]
    assert not any(word in json.dumps([found["personal"], found["secrets"], found["reading"]]) for word in ("ada@", "AKIA", "/srv"))
