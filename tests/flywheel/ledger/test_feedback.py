"""The door on a real PostgreSQL: what is stored, once, and what is refused in a sentence."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from pydantic import ValidationError

from flywheel import ledger
from flywheel.errors import ContractError, FlywheelError, NotFound
from flywheel.ledger import Stored, schema
from flywheel.records import FeedbackIn
from tests.flywheel.ledger.conftest import ask, give, given


def test_the_same_key_is_stored_once_even_at_once(database):
    one = given(1)
    first, new = ledger.add_feedback(one)
    assert new
    with ThreadPoolExecutor(8) as people:
        assert set(people.map(lambda _: ledger.add_feedback(one), range(16))) == {(first, False)}
    with pytest.raises(ContractError, match="other feedback"):
        ledger.add_feedback(one.model_copy(update={"thumb": "up"}))
    with pytest.raises(NotFound, match="no such answer"):
        ledger.add_feedback(one.model_copy(update={"answer_id": "x", "idempotency_key": "another-key"}))


def test_plain_records_are_one_statement_together(database):
    sent = [given(n, user="Ada", correction="x", consent=True) for n in range(5)]
    statements = []
    for engine in (schema._engine(database), schema._statements(database)):
        sa.event.listen(engine, "before_cursor_execute", lambda *call: statements.append(call[2]))
    assert all(done.new for done in ledger.add_many(sent)) and len(statements) == 1
    assert [done.new for done in ledger.add_many(sent)] == [False] * 5 and len(statements) > 2


def test_a_connection_that_ended_with_its_server_is_not_noticed(database):
    give(1)
    with ledger.transaction() as db:
        db.exec_driver_sql("select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()")
    assert ledger.add_many([given(2)])[0].new


def test_nothing_is_said_of_an_answer_that_was_forgotten(database):
    answer = ask()
    with ledger.transaction() as db:
        db.execute(schema.answers.update().values(forgotten=sa.func.now()))
    plain, other = ledger.add_many([given(1, answer), given(2, answer, given_at=datetime.now(UTC))])
    assert isinstance(plain, NotFound) and isinstance(other, NotFound) and ledger.find("key-000001") is None


def test_one_that_cannot_be_stored_stands_in_nobodys_way(database):
    good, bad = given(1), given(2, answer="unknown")
    fresh, refused, again, other, last = ledger.add_many([good, bad, good, good.model_copy(update={"thumb": "up"}), given(3)])
    assert isinstance(fresh, Stored) and fresh.new and again == Stored(fresh.id, False)
    assert isinstance(refused, NotFound) and isinstance(other, ContractError) and last.new


def test_a_text_that_postgresql_refuses_fails_alone(database):
    bad = given(2).model_copy(update={"comment": "a\x00b"})  # past the model's own check
    good, refused = ledger.add_many([given(1), bad])
    assert good.new and isinstance(refused, FlywheelError) and "cannot be stored" in refused.sentence
    assert ledger.record_of(ledger.find(good.id)).thumb == "down"
    answer = ledger.add_answer("NUL \x00 in it", "", "x", "1")
    assert ledger.record_of(ledger.find(give(3, answer))).prompt == "NUL \ufffd in it"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"correction": "x" * 1_000_000}, "20000"),
        ({"comment": "a\x00b"}, "NUL"),
        ({"rating": 6}, "rating"),
        ({"thumb": "sideways"}, "thumb"),
        ({"preference": {"other_id": "x", "other": "y", "side": "left", "better": "tie"}}, "one of them"),
        ({"preference": {"side": "left", "better": "tie"}}, "one of them"),
        ({"supersedes": "key-000001"}, "earlier one"),
        ({"tags": ["t" * 65]}, "tags"),
        ({"given_at": "2026-01-01T00:00:00"}, "given_at"),
    ],
)
def test_what_is_no_feedback_is_told_so(more, words):
    with pytest.raises(ValidationError, match=words):
        given(1, answer="a", **more)


def test_every_kind_is_kept_as_it_was_given(database):
    other = ask(9)
    kinds = {
        1: {"rating": 4, "source": "label-studio", "tags": ("fluent", "short")},
        2: {"preference": {"other_id": other, "side": "left", "better": "right"}},
        3: {"preference": {"other": "another answer", "side": "right", "better": "both bad"}},
        4: {"signal": "copied", "source": "ui", "consent": True},
        5: {"correction": "better", "comment": "because", "thumb": None},
    }
    for number, more in kinds.items():
        record = ledger.record_of(ledger.find(give(number, **more)))
        assert {name: getattr(record, name) for name in more} == {name: getattr(given(number, "a", **more), name) for name in more}
    assert [ledger.record_of(ledger.find(f"key-{n:06d}")).preference.won for n in (2, 3)] == [False, None]
    with pytest.raises(NotFound, match=r"other_id nobody"):
        give(6, preference={"other_id": "nobody", "side": "left", "better": "left"})


def test_a_clock_of_1970_is_kept_and_said_and_the_ledgers_own_counts(database):
    (done,) = ledger.add_many([given(1, given_at=datetime(1970, 1, 1, tzinfo=UTC))])
    assert done.new and "service's own clock" in done.note
    record = ledger.record_of(ledger.find(done.id))
    assert record.given_at.year == 1970 and datetime.now(UTC) - record.timestamp < timedelta(minutes=5)
    (done,) = ledger.add_many([given(2, given_at=datetime.now(UTC))])
    assert not done.note


def test_retention_is_the_services_or_sooner(database):
    now = datetime.now(UTC)
    ids = [give(n, keep_until=until) for n, until in enumerate((None, now + timedelta(days=3), now + timedelta(days=90_000)))]
    days = [round((ledger.record_of(ledger.find(i)).keep_until - now).total_seconds() / 86400) for i in ids]
    assert days == [730, 3, 730]
    with pytest.raises(ContractError, match="has passed"):
        give(4, keep_until=now - timedelta(days=1))


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_a_newer_record_supersedes_whichever_comes_first(database, order):
    answer = ask()
    records = {1: given(1, answer, user="Ada"), 2: given(2, answer, user="Ada", supersedes="key-000001", thumb="up")}
    notes = [ledger.add_many([records[number]])[0].note for number in order]
    assert ("should it come" in notes[0]) == (order[0] == 2)
    old, new = (ledger.record_of(ledger.find(f"key-{n:06d}")) for n in (1, 2))
    assert old.withheld == f"superseded by {new.id}" and not new.withheld


def test_nobody_supersedes_or_withdraws_anothers_record(database):
    answer = ask()
    first = give(1, answer, user="Ada")
    with pytest.raises(ContractError, match="same person"):
        give(2, answer, user="Bob", supersedes=first)
    give(3, answer, user="Bob", supersedes="key-000004")
    give(4, answer, user="Ada")
    assert not ledger.record_of(ledger.find("key-000004")).withheld
    with pytest.raises(ContractError, match="only who gave it"):
        ledger.withdraw(first, "Bob")
    with pytest.raises(NotFound, match="no such feedback"):
        ledger.withdraw("nothing", "Ada")
    assert ledger.withdraw("key-000001", "Ada") == first == ledger.withdraw(first, "Ada")
    assert ledger.record_of(ledger.find(first)).withheld == "withdrawn"


def test_a_record_of_today_reads_as_what_was_sent(database):
    one = given(1, supersedes="an-older-key", correction="x")
    ledger.add_feedback(one)
    assert FeedbackIn.model_validate(ledger.find(one.idempotency_key).body) == one
