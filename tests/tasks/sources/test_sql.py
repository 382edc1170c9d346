import sqlite3

import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.errors import ContractError, DataError, TransientError
from tests.conftest import free_port
from tests.tasks.sources.conftest import parted, reader

TABLE = "create table chats (instruction, output, created timestamp)"


@pytest.fixture
def chats(tmp_path, monkeypatch):
    """A SQLite database with three chats, one a day."""
    monkeypatch.setenv("CHATS_URL", f"sqlite:///{tmp_path}/chats.db")
    db = sqlite3.connect(tmp_path / "chats.db", isolation_level=None)
    db.execute(TABLE)
    db.executemany("insert into chats values (?, ?, ?)", [(f"Q{day}", "A", f"2026-01-0{day} 10:00:00.000000") for day in (1, 2, 3)])
    yield db
    db.close()


def sql(query, until="", **options):
    return reader(until, kind="sql", query=query, **{"url_variable": "CHATS_URL", **options})


def test_rows_and_the_interval(chats):
    cut = "select * from chats where created <= :interval_end"
    assert [r.instruction for r in parted(sql(cut, "2026-01-02T12:00:00+00:00"))[0]] == ["Q1", "Q2"]
    assert len(parted(sql(cut))[0]) == 3
    night = sql(cut, "2026-01-02T12:00:00+00:00").identity()
    chats.execute("insert into chats values ('Q4', 'A', '2026-01-04 10:00:00.000000')")
    assert sql(cut, "2026-01-02T12:00:00+00:00").identity() == night != sql(cut).identity()
    assert sql("select * from chats order by created desc").identity() == sql("select * from chats order by created").identity()


def test_a_bad_row_is_named(chats):
    chats.execute("insert into chats values (cast(x'ff' as text), 'A', null), (x'00ff', 'A', null), (null, 'A', null), (5, 'A', null)")
    rows, rejected = parted(sql("select * from chats"))
    assert len(rows) == 3 and [r.line for r in rejected] == [4, 5, 6, 7] and "UTF-8" in rejected[0].reason


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("select * from chats, json_each(case when instruction = 'Q2' then '{broken' else '[1]' end)", "the query failed"),
        ("selec nonsense", "the query failed"),
        ("select * from nowhere", "the query failed"),
        ("select instruction, output, output from chats", "`output` is there twice"),
        ("select instruction as question from chats", "`instruction` is missing"),
        ("select * from chats where instruction = :who", "cannot be run"),
    ],
)
def test_a_query_at_fault(chats, query, words):
    with pytest.raises(DataError, match=words):
        parted(sql(query))


def test_a_query_that_fails_half_way_on_postgresql(database, monkeypatch):
    monkeypatch.setenv("CHATS_URL", database)
    query = "select 'Q' || n as instruction, (10 / (2500 - n))::text as output from generate_series(1, 3000) n"
    with pytest.raises(DataError, match="division by zero"):
        parted(sql(query))
    assert len(parted(sql(query.replace("2500", "5000")))[0]) == 3000
    cut = "select 'Q' as instruction, 'A' as output where timestamptz '2026-01-02 10:00+00' <= :interval_end"
    assert [len(parted(sql(cut, until))[0]) for until in ("2026-01-02T09:00:00+00:00", "2026-01-02T11:00:00+00:00")] == [0, 1]


def test_a_database_that_goes_away_half_way(database, monkeypatch):
    monkeypatch.setenv("CHATS_URL", database)
    one = sql("select n::text as instruction, repeat('x', 1000) as output from generate_series(1, 200000) n").read()
    next(one)
    with sa.create_engine(database).connect() as db:
        other = "from pg_stat_activity where pid <> pg_backend_pid() and datname = current_database()"
        assert db.execute(sa.text(f"select query {other}")).scalar_one().startswith("FETCH"), "streamed by a cursor of the server's"
        db.execute(sa.text(f"select pg_terminate_backend(pid) {other}"))
    with pytest.raises(TransientError, match="does not answer"):
        list(one)


def test_addresses_at_fault(monkeypatch, home):
    monkeypatch.setenv("CHATS_URL", f"postgresql+psycopg://nobody@127.0.0.1:{free_port()}/none")
    with pytest.raises(TransientError, match="does not answer"):
        parted(sql("select 1"))
    monkeypatch.setenv("CHATS_URL", "nonsense")
    with pytest.raises(ContractError, match="no database URL"):
        parted(sql("select 1"))
    monkeypatch.delenv("CHATS_URL")
    with pytest.raises(ContractError, match="CHATS_URL"):
        parted(sql("select 1"))


cells = st.none() | st.integers(-(2**63), 2**63 - 1) | st.floats() | st.text(st.characters(codec="utf-8"), max_size=9) | st.binary(max_size=9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(cells, cells), max_size=6))
def test_in_is_out_plus_rejected(tmp_path_factory, found):
    path = tmp_path_factory.mktemp("h") / "h.db"
    with sqlite3.connect(path) as db:
        db.execute("create table t (instruction, output)")
        db.executemany("insert into t values (?, ?)", found)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CHATS_URL", f"sqlite:///{path}")
        rows, rejected = parted(sql("select * from t"))
    assert len(rows) + len(rejected) == len(found)
