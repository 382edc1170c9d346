"""Figures of a real ledger."""

import pytest

from flywheel import ledger
from tests.flywheel.ledger.conftest import ask, give


def test_what_people_made_of_each_version(database):
    assert ledger.figures().feedback_rate is None
    ones, twos = [ask(n, version="1") for n in range(4)], [ask(n, version="2") for n in range(4, 6)]
    give(1, ones[0])
    give(2, ones[0], thumb="up", user="Bob")
    give(3, ones[1], thumb=None, rating=2, correction="better")
    give(4, twos[0], thumb="up")
    give(5, twos[1], thumb=None, rating=5)
    give(6, twos[1], thumb=None, comment="fine")
    ledger.withdraw(give(7, twos[1], user="Eve"), "Eve")
    found = ledger.figures()
    assert (found.answers, found.feedback, found.waiting, found.learned, found.seconds_to_learn) == (6, 6, 6, 0, None)
    assert found.feedback_rate == pytest.approx(4 / 6) and found.approval == pytest.approx(3 / 5)
    assert found.versions["1"].model_dump() == {"answers": 4, "answers_with_feedback": 2, "up": 1, "down": 2, "corrected": 1, "approval": pytest.approx(1 / 3)}
    assert found.versions["2"].approval == 1
