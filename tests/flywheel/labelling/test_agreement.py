"""Krippendorff's alpha against the figures of his own example."""

import pytest

from flywheel.labelling.agreement import alpha, interval, nominal

# Computing Krippendorff's Alpha-Reliability, 2011, section C: four observers, twelve units, some not judged.
OBSERVERS = ["123321412...", "12332241 25.3".replace(" ", ""), ".333 2342251.".replace(" ", ""), "12332441 251.".replace(" ", "")]
UNITS = [[int(v) for v in unit if v != "."] for unit in zip(*OBSERVERS, strict=True)]


def test_as_published():
    assert alpha(UNITS, nominal) == pytest.approx(0.743, abs=0.0005)
    assert alpha(UNITS, interval) == pytest.approx(0.849, abs=0.0005)


def test_nothing_to_compare_is_no_figure():
    assert alpha([]) is None and alpha([["a"], ["b"]]) is None and alpha([["a", "a"], ["a", "a"]]) is None
    assert alpha([["a", "a"], ["b", "b"]]) == 1.0 and alpha([["a", "b"], ["b", "a"]]) < 0
