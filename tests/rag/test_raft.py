"""Training records show the right passage among distractors, in serving's own form."""

from __future__ import annotations

import random

from rag.grounding import UNKNOWN, context
from rag.raft import record
from rag.search import Hit


def hit(name, text):
    return Hit(name, "d", name, text, 0, len(text), {}, 1, 1)


HITS = [hit("wrong", "Bread needs salt."), hit("right", "The Moon circles the Earth in days."), hit("other", "Ships carry tea."), hit("more", "Rain falls.")]
ANSWER = "The Moon circles the Earth."


def test_the_right_passage_and_so_many_distractors():
    shown, output = record(ANSWER, HITS, random.Random(1), 1, 0.0, 1000)
    assert output == ANSWER and "Moon" in shown and "Bread" in shown and "Ships" not in shown
    assert shown in (context([("right", HITS[1].text), ("wrong", HITS[0].text)], 1000), context([("wrong", HITS[0].text), ("right", HITS[1].text)], 1000))


def test_without_the_right_passage_the_answer_is_that_one_does_not_know():
    shown, output = record(ANSWER, HITS, random.Random(1), 2, 1.0, 1000)
    assert output == UNKNOWN and "Moon" not in shown and "Bread" in shown


def test_a_record_whose_answer_no_passage_holds_is_none():
    assert record("Unicorns gallop wildly.", HITS, random.Random(1), 2, 0.0, 1000) is None
