"""Citations point at the words they rest on; what nothing supports has none."""

from __future__ import annotations

from rag.citing import cite, cited, faithful, without_markers
from rag.search import Hit

DOCUMENT = "Preface here. The Moon circles the Earth in twenty-seven days. Bread needs salt and water."
HITS = [
    Hit("a", "d", "Sky", DOCUMENT[14:62], 14, 62, {}, 1, 1),
    Hit("b", "d", "Food", DOCUMENT[63:], 63, len(DOCUMENT), {}, 1, 1),
]


def test_each_sentence_has_the_passage_that_holds_its_words():
    answer = "The Moon circles in twenty-seven days. Bread needs salt. Unicorns gallop wildly."
    first, second = cite(answer, HITS)
    assert (first.source, second.source) == (1, 2)
    assert DOCUMENT[first.source_start : first.source_end] == "Moon circles the Earth in twenty-seven days"
    assert answer[second.start : second.end] == "Bread needs salt."
    assert DOCUMENT[second.source_start : second.source_end] == "Bread needs salt"


def test_markers_of_no_source_go_and_sources_say_whether_they_were_used():
    assert without_markers("So it is [1], they say [9].", 2) == "So it is [1], they say."
    given = cited("Bread needs salt [2] [7].", HITS)
    assert given["answer"] == "Bread needs salt [2]." and [s["cited"] for s in given["sources"]] == [False, True]


def test_faithful():
    assert faithful("Bread needs salt", HITS) == 1 and faithful("Bread needs unicorns", HITS) < 0.7 and faithful("", HITS) == 1
    assert cite("anything", []) == [] and cite("", HITS) == []
