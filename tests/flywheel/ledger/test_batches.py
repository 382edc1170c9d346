"""Claims on a real ledger: each record in one batch, and what is withheld in none that can still be read."""

import threading

import pytest

from flywheel import ledger, store
from flywheel.settings import settings
from tests.flywheel.ledger.conftest import ask, curate, example, give, published, write_examples


def test_a_claim_is_taken_up_again_and_nothing_is_claimed_twice(database, home):
    for number in range(3):
        give(number)
    ledger.seal_segments()
    first = ledger.claim()
    give(3)
    ledger.seal_segments()
    assert ledger.claim() == first  # the curation died: the next one takes up its batch, without the newcomer
    assert curate(home) == first
    second = ledger.claim()
    assert [r.prompt for r in first.records] == ["question 0", "question 1", "question 2"]
    assert [r.prompt for r in second.records] == ["question 3"]


def test_a_withdrawn_record_is_in_no_later_data_whenever_it_is_withdrawn(database, home):
    early, claimed, late, kept = (give(n, correction=f"right {n}", user="Ada") for n in range(4))
    ledger.withdraw(early, "Ada")
    ledger.seal_segments()
    assert [r.withheld for r in ledger.claim().records] == ["withdrawn", "", "", ""]
    ledger.withdraw(claimed, "Ada")  # its batch is claimed and not published
    assert ledger.settle() == []
    curate(home)
    assert ledger.settle() == []
    ledger.withdraw(late, "Ada")  # its batch is published
    assert ledger.settle() == [1] and ledger.settle() == []
    assert [e.feedback_ids for e in published()] == [(kept,)]


def test_who_withdraws_while_a_batch_is_published_is_taken_out_of_it(database, home):
    mine = give(0, correction="right", user="Ada")
    ledger.seal_segments()
    batch = ledger.claim()
    done = threading.Thread(target=lambda: (ledger.withdraw(mine, "Ada"), ledger.settle()))
    with ledger.publishing(batch) as withheld:
        assert not withheld
        done.start()
        done.join(0.5)
        assert done.is_alive()  # not acknowledged: it waits for what is being written
        ledger.publish(batch, write_examples(home / "store" / "x.jsonl", [example(r) for r in batch.records]))
    done.join()
    assert published() == []


def test_a_curation_that_died_after_it_published_hides_nothing(database, home):
    mine = give(0, correction="right", user="Ada")
    ledger.seal_segments()
    batch = ledger.claim()
    with pytest.raises(KeyboardInterrupt), ledger.publishing(batch):
        ledger.publish(batch, write_examples(home / "store" / "x.jsonl", [example(r) for r in batch.records]))
        raise KeyboardInterrupt
    assert ledger.unfinished_batch() == batch.id
    ledger.withdraw(mine, "Ada")
    ledger.settle()
    assert published() == []
    curate(home)
    assert published() == [] and ledger.settle() == []


def test_a_superseded_record_leaves_the_batch_that_was_published(database, home):
    answer = ask()
    give(1, answer, correction="right")
    curate(home, "1")
    newer = give(2, answer, correction="better", supersedes="key-000001")
    ledger.settle()
    curate(home, "2")
    assert [e.feedback_ids for e in published()] == [(newer,)]
    assert store.list_names(store.join(settings().store, ledger.CLAIMED)) == store.list_names(store.join(settings().store, ledger.SEGMENTS))
