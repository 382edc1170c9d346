"""Traces on a real ledger and a real registry, both ways."""

import pytest

from flywheel import ledger, lineage, registry
from flywheel.errors import NotFound
from flywheel.settings import settings
from tests.flywheel.ledger.conftest import ask, curate, give, published


@pytest.fixture
def history(learn, home):
    """Two batches, two data sets, three versions: 2 goes on from 1, 3 began afresh and did not learn the last record."""
    answer = ask(version="1")
    first = [give(n, answer, correction=f"right {n}") for n in range(3)]
    curate(home, "1")
    one, _ = learn("one", published())
    second = [give(n, correction=f"right {n}") for n in range(3, 5)]
    curate(home, "2")
    two, _ = learn("two", published(), parent=one)
    rewritten = [e.edited(output=e.output + " (masked)") for e in published()]  # cleaning changes texts, and with them ids
    three, _ = learn("three", rewritten, learned=rewritten[:4])
    registry.promote(one, "test", "better")
    return answer, first, second, (one, two, three)


def test_every_kind_of_id_is_traced_both_ways(history):
    answer, first, second, versions = history
    names = [str(v) for v in versions]
    early, late, last = (lineage.trace(i) for i in (first[0], second[0], second[1]))
    assert early["learned_by"] == names and late["learned_by"] == names[1:] and last["learned_by"] == names[1:2]
    assert (early["batch"], late["batch"]) == ("000001", "000002") and len(early["datasets"]) == 3 and len(late["datasets"]) == 2
    assert list(early["deployed"]) == names[:1] and not late["deployed"]
    assert lineage.trace("key-000000") == early
    of_answer = lineage.trace(answer)
    assert of_answer["feedback"] == first and list(of_answer["deployed"]) == ["1"]
    batch = lineage.trace("000002")
    assert batch["feedback"] == second and batch["learned_by"] == names[1:]
    two, three = lineage.trace(names[1]), lineage.trace(names[2])
    assert two["feedback"] == first + second and two["ancestors"] == names[:1] and two["batches"] == ["000001", "000002"]
    assert lineage.trace(names[0])["descendants"] == names[1:2] and lineage.trace(names[0])["feedback"] == first
    assert three["feedback"] == [*first, second[0]] and three["ancestors"] == []
    (dataset,) = three["datasets"]
    of_dataset = lineage.trace(dataset[:12])
    assert of_dataset["versions"] == names[2:] and of_dataset["feedback"] == first + second


def test_an_unknown_id_is_said(history):
    with pytest.raises(NotFound, match="nothing has this id"):
        lineage.trace("no-such-id")


def test_the_index_answers_while_the_registry_is_away(history, monkeypatch):
    _, first, _, versions = history
    lineage.catch_up()
    monkeypatch.setenv("FLYWHEEL_MLFLOW_URL", "http://127.0.0.1:1")
    settings.cache_clear()
    found = lineage.trace(first[0])
    assert found["learned_by"] == [str(v) for v in versions] and "does not answer" in found["incomplete"]


def test_a_run_whose_files_are_gone_is_said_and_hides_nothing_else(learn, home):
    mine = give(0, correction="right")
    curate(home)
    kept = published()
    one, _ = learn("one", kept)
    two, _ = learn("two", kept, parent=one)
    (home / "store" / "runs" / "flywheel" / "two" / "clean" / "manifest.json").unlink()
    assert lineage.trace(mine)["learned_by"] == [str(one), str(two)]  # what its parent learned
    assert "manifest is missing" in lineage.trace(str(two))["unreadable"]


def test_the_time_to_learn_is_the_first_versions(history):
    lineage.catch_up()
    figures = ledger.figures()
    assert figures.learned == 5 and 0 <= figures.seconds_to_learn < 300
