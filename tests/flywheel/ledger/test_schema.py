"""Migrations on a real PostgreSQL: an old database comes forward, and what the code says is what the database has."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from flywheel import ledger
from flywheel.cli import app
from flywheel.errors import TransientError
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
        assert db.exec_driver_sql("select array_agg(number order by number) from migrations").scalar() == sorted(
            int(path.stem) for path in schema.MIGRATIONS.glob("*.sql")
        )


def test_flywheel_migrate_brings_an_empty_database_to_the_last_migration_and_says_so(database, monkeypatch):
    last = max(path.stem for path in schema.MIGRATIONS.glob("*.sql"))
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
