"""Migrations on a real PostgreSQL: an old database comes forward, and what the code says is what the database has."""

from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from flywheel import ledger
from flywheel.cli import app
from flywheel.errors import ContractError, TransientError
from flywheel.ledger import schema
from flywheel.records import FeedbackIn
from flywheel.settings import settings
from tests.flywheel.ledger.conftest import ask, give, sealed_lines

OLD = """
insert into answers (id, prompt, input, response, model_version, "user") values ('a', 'question', '', 'answer', '1', 'Ada');
insert into feedback (id, idempotency_key, answer_id, at, body)
values ('f', 'key-of-old', 'a', '2026-01-01', '{"answer_id": "a", "idempotency_key": "key-of-old", "thumb": "up", "user": "Ada", "consent": false}');
"""


def test_a_database_of_before_the_migrations_comes_forward_with_its_records(database):
    with sa.create_engine(database).begin() as db:
        db.connection.cursor().execute((schema.MIGRATIONS / "0001.sql").read_text() + OLD)
    row = ledger.find("f")
    assert ledger.record_of(row).keep_until.year == 2028 and ledger.record_of(row).user == "Ada"
    ledger.seal_segments()
    (line,) = sealed_lines()
    assert (line["feedback"], line["prompt"], line["response"], line["comment"]) == ("up", "question", "answer", None)
    # The client that never heard of its 201 sends it again: an older server wrote fewer fields.
    assert ledger.add_feedback(FeedbackIn(answer_id="a", idempotency_key="key-of-old", thumb="up", user="Ada")) == ("f", False)


def test_the_tables_in_the_code_are_those_in_the_database(database):
    ask()
    found = sa.inspect(schema._engine(settings().database_url))
    for table in schema.tables.sorted_tables:
        columns = {c["name"]: (c["type"]._type_affinity, c["nullable"]) for c in found.get_columns(table.name)}
        assert {c.name: (c.type._type_affinity, bool(c.nullable)) for c in table.columns} == columns, table.name


def test_processes_that_start_at_once_migrate_once(database):
    engines = [sa.create_engine(database) for _ in range(6)]
    with ThreadPoolExecutor(6) as servers:
        list(servers.map(schema.migrate, engines))
    with engines[0].begin() as db:
        assert db.exec_driver_sql("select array_agg(number order by number) from migrations").scalar() == list(schema.files())


def test_flywheel_migrate_brings_an_empty_database_to_the_last_migration_and_says_so(database, monkeypatch):
    last = f"{schema.latest():04d}"
    for _ in range(2):
        done = CliRunner().invoke(app, ["migrate"])
        assert (done.exit_code, done.output.strip()) == (0, f"the ledger is at migration {last}")
    with sa.create_engine(database).begin() as db:
        assert f"{db.exec_driver_sql('select max(number) from migrations').scalar():04d}" == last
    monkeypatch.setenv("FLYWHEEL_DATABASE_URL", "postgresql+psycopg://flywheel@127.0.0.1:1/x")
    settings.cache_clear()
    assert CliRunner().invoke(app, ["migrate"]).exit_code == 75


def test_a_server_of_the_version_before_goes_on_beside(database):
    give(1)
    with sa.create_engine(database).begin() as db:
        db.connection.cursor().execute(OLD)
    assert ledger.record_of(ledger.find("f")).user == "Ada"


def test_a_dead_database_is_transient(home, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_DATABASE_URL", "postgresql+psycopg://flywheel@127.0.0.1:1/x")
    settings.cache_clear()
    with pytest.raises(TransientError, match="make up"):
        ask()


STATE = Path(__file__).with_name("state-0007.sql")
OBJECTS = """
select table_name, column_name, data_type, is_nullable, coalesce(column_default, generation_expression) from information_schema.columns
    where table_schema = 'public' and table_name <> 'migrations'
union all select tablename, indexname, indexdef, '', '' from pg_indexes where schemaname = 'public'
union all select conrelid::regclass::text, conname, pg_get_constraintdef(oid), '', '' from pg_constraint where connamespace = 'public'::regnamespace
"""


def objects(engine):
    """Every column, index and constraint."""
    with engine.begin() as db:
        return {tuple(row) for row in db.exec_driver_sql(OBJECTS) if row[0] != "migrations"}


def rows(engine, columns):
    """What each table holds, in these columns."""
    with engine.begin() as db:
        return {t: sorted(map(str, db.exec_driver_sql(f"select {', '.join(names)} from {t}"))) for t, names in columns.items()}


@pytest.fixture
def older(database, monkeypatch):
    """A copy of the older state, the objects that each migration leads to, and its tables' columns."""
    engine, every = sa.create_engine(database, poolclass=sa.NullPool), schema.files()
    expected = {}
    for number in every:
        monkeypatch.setattr(schema, "files", lambda upto=number: {n: path for n, path in every.items() if n <= upto})
        schema.migrate(engine)
        expected[number] = objects(engine)
        if number == 7:
            with engine.begin() as db:
                db.connection.cursor().execute(STATE.read_text())
            found = sa.inspect(engine)
            names = {t: [f'"{c["name"]}"' for c in found.get_columns(t)] for t in found.get_table_names() if t != "migrations"}
    return engine, expected, names


def test_a_copy_of_an_older_state_goes_forward_and_back_with_every_record(older):
    engine, expected, columns = older
    before = rows(engine, columns)
    assert all(before.values()) and ledger.record_of(ledger.find("f1")).correction == "A tree."
    numbers = sorted(expected)
    for number, undone in reversed(list(pairwise(numbers))):
        if not (schema.MIGRATIONS / f"{undone:04d}.down.sql").exists():
            break  # from here back only a backup leads
        assert schema.go_back(number) == [undone]
        assert objects(engine) == expected[number], number
        if number == 7:
            assert rows(engine, columns) == before
    schema.migrate(engine)
    assert objects(engine) == expected[max(expected)]
    assert ledger.record_of(ledger.find("f1")).user == "Ada"


def test_going_back_is_told_and_refused_where_it_cannot_be(older, tmp_path, monkeypatch):
    before, last = sorted(schema.files())[-2:]
    monkeypatch.setattr(schema, "MIGRATIONS", tmp_path)
    (tmp_path / f"{last:04d}.down.sql").write_text("select 1")
    done = CliRunner().invoke(app, ["migrate", "--to", str(before)])
    assert (done.exit_code, done.output.splitlines()) == (0, [f"took back {last:04d}", f"the ledger is at migration {before:04d}"])
    assert "nothing to take back" in CliRunner().invoke(app, ["migrate", "--to", str(before)]).output
    assert CliRunner().invoke(app, ["migrate", "--to", "999"]).exit_code == 2
    with older[0].begin() as db:
        db.exec_driver_sql("insert into migrations (number) values (9999)")
    with pytest.raises(ContractError, match=r"9999.down.sql: migration 9999 cannot be taken back. Use the version of the code that knows it"):
        schema.go_back(before)
    with older[0].begin() as db:
        db.exec_driver_sql("delete from migrations where number = 9999")
    with pytest.raises(ContractError, match="Restore the backup"):
        schema.go_back(1)
    with pytest.raises(ContractError, match="there is no migration 0"):
        schema.go_back(0)
