"""Records with passages, from a real index."""

from __future__ import annotations

import json

from flywheel.config.sources import Files, Grounded
from flywheel.records import question
from rag.grounding import UNKNOWN
from rag.index import Wanted, build
from tasks import sources
from tests.rag.conftest import passages

OWN = {"licence": "CC0-1.0", "consent": "made here"}
ASKED = "How long does the Moon take around the Earth?"


def test_a_record_gets_its_passage_and_one_without_is_rejected(database, home):
    build(passages(), Wanted())
    rows = [
        {"instruction": ASKED, "output": "The Moon circles the Earth in about twenty-seven days."},
        {"instruction": "Who rides unicorns?", "output": "Seven wizards gallop."},
        {"instruction": "Which flour is the house's secret?", "output": "The secret flour of the house is ground from chestnuts."},
    ]
    home.mkdir(exist_ok=True)
    (home / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = Files(kind="files", path=str(home / "r.jsonl"), **OWN)

    def read(share):
        return list(sources.reader(Grounded(kind="grounded", source=plain, without_answer=share, **OWN)).read())

    first, *others = read(0)
    assert first[2].instruction == ASKED and "twenty-seven" in first[2].input and first[2].group == question(ASKED, "")
    assert len(others) == 2 and all("no passage" in other.reason for other in others)  # the third is one tenant's: it is not learned from
    unknown = read(1)[0][2]
    assert unknown.output == UNKNOWN and "twenty-seven" not in unknown.input
