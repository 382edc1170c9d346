"""On a real PostgreSQL."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from flywheel import ledger, store
from flywheel.errors import ContractError, TransientError
from flywheel.records import FeedbackIn
from flywheel.settings import settings


def give(number, **more):
    answer = ledger.add_answer(f"question {number}", "", "answer", "1")
    given = FeedbackIn(answer_id=answer, idempotency_key=f"key-{number:06d}", thumb="down", **more)
    return given, ledger.add_feedback(given)


def sealed_lines():
    folder = store.join(settings().store, ledger.SEGMENTS)
    return [json.loads(line) for name in store.list_names(folder) for line in store.read_bytes(store.join(folder, name)).splitlines()]


def test_the_same_key_is_stored_once_even_at_once(database):
    given, (first, new) = give(1)
    assert new
    with ThreadPoolExecutor(8) as people:
        assert set(people.map(lambda _: ledger.add_feedback(given), range(16))) == {(first, False)}
    with pytest.raises(ContractError, match="other feedback"):
        ledger.add_feedback(given.model_copy(update={"thumb": "up"}))
    with pytest.raises(ContractError, match="no such answer"):
        ledger.add_feedback(given.model_copy(update={"answer_id": "x", "idempotency_key": "another-key"}))


def test_sealing_is_complete_and_survives_a_death_in_the_middle(database, monkeypatch):
    for number in range(5):
        give(number)
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            ledger.seal_segments()
    give(5)
    ledger.seal_segments()
    assert ledger.seal_segments() == []
    assert sorted(line["prompt"] for line in sealed_lines()) == [f"question {n}" for n in range(6)]


def test_sealing_from_two_servers_at_once(database):
    for number in range(20):
        give(number)
    with ThreadPoolExecutor(4) as servers:
        list(servers.map(lambda _: ledger.seal_segments(), range(8)))
    assert len(sealed_lines()) == 20


def test_a_claim_is_taken_up_again_and_nothing_is_claimed_twice(database):
    for number in range(3):
        give(number)
    ledger.seal_segments()
    first = ledger.claim()
    give(3)
    ledger.seal_segments()
    assert ledger.claim() == first  # the curation died: the next one takes up its batch, without the newcomer
    ledger.finish(first)
    second = ledger.claim()
    assert [r.prompt for r in first.records] == ["question 0", "question 1", "question 2"]
    assert [r.prompt for r in second.records] == ["question 3"]
    assert ledger.trace(first.records[0].id)["batch"] == first.id


def test_a_dead_database_is_transient(home, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_DATABASE_URL", "postgresql+psycopg://flywheel@127.0.0.1:1/x")
    settings.cache_clear()
    with pytest.raises(TransientError, match="make up"):
        ledger.add_answer("q", "", "a", "1")
