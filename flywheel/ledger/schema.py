"""The ledger's tables, their migrations, and the one way to a transaction.

A migration is a file of SQL in `migrations/`, applied once, in order, by whichever process comes first; it never changes after it
was released. It only adds, so that a server of the version before goes on beside it. `NNNN.down.sql` takes it back (`flywheel migrate --to`);
what only its columns held is lost with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import InterfaceError, OperationalError

from flywheel.errors import ContractError, TransientError
from flywheel.settings import settings

SEAL_LOCK, CLAIM_LOCK, SCHEMA_LOCK, REGISTRY_LOCK, MLFLOW_LOCK, LABEL_LOCK = 7101, 7102, 7103, 7104, 7105, 7106
MIGRATIONS = Path(__file__).parent / "migrations"

tables = sa.MetaData()
Moment = sa.DateTime(timezone=True)
answers = sa.Table(
    "answers",
    tables,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", Moment, nullable=False, server_default=sa.func.now()),
    sa.Column("prompt", sa.Text, nullable=False),
    sa.Column("input", sa.Text, nullable=False),
    sa.Column("response", sa.Text, nullable=False),
    sa.Column("model_version", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("forgotten", Moment),
)
batches = sa.Table(
    "batches",
    tables,
    sa.Column("id", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("at", Moment, nullable=False, server_default=sa.func.now()),
    sa.Column("finished", sa.Boolean, nullable=False, server_default=sa.false()),
)
feedback = sa.Table(
    "feedback",
    tables,
    sa.Column("number", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text, nullable=False),
    sa.Column("answer_id", sa.Text, sa.ForeignKey("answers.id"), nullable=False),
    sa.Column("at", Moment, nullable=False, server_default=sa.func.now()),
    sa.Column("body", JSONB, nullable=False),
    sa.Column("segment", sa.Text),
    sa.Column("batch", sa.BigInteger, sa.ForeignKey("batches.id")),
    sa.Column("user", sa.Text, sa.Computed("body ->> 'user'", persisted=True)),
    sa.Column("supersedes", sa.Text, sa.Computed("body ->> 'supersedes'", persisted=True)),
    sa.Column("keep_until", Moment, nullable=False),
    sa.Column("withheld", sa.Text),
    sa.Column("unsettled", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Column("sha256", sa.Text),
    sa.Column("logged", Moment),
)
segments = sa.Table(
    "segments",
    tables,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("sealed", Moment),
    sa.Column("sha256", sa.Text),
    sa.Column("archived", Moment),
)
events = sa.Table(
    "events",
    tables,
    sa.Column("number", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("at", Moment, nullable=False, server_default=sa.func.now()),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("detail", JSONB, nullable=False),
)
lineage = sa.Table(
    "lineage",
    tables,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("at", Moment, nullable=False),
    sa.Column("detail", JSONB, nullable=False),
    sa.Column("feedback", ARRAY(sa.BigInteger), nullable=False),
)
acceptances = sa.Table(
    "acceptances",
    tables,
    sa.Column("user", sa.Text, primary_key=True),
    sa.Column("policy", sa.Text, primary_key=True),
    sa.Column("at", Moment, nullable=False, server_default=sa.func.now()),
)
review = sa.Table(
    "review",
    tables,
    sa.Column("number", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("id", sa.Text, nullable=False),
    sa.Column("at", Moment, nullable=False, server_default=sa.func.now()),
    sa.Column("answer_id", sa.Text, sa.ForeignKey("answers.id"), nullable=False),
    sa.Column("feedback_id", sa.Text),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("priority", sa.Double, nullable=False),
    sa.Column("state", sa.Text, nullable=False, server_default="waiting"),
)
decisions = sa.Table(
    "decisions",
    tables,
    sa.Column("item", sa.Text, primary_key=True),
    sa.Column("reviewer", sa.Text, primary_key=True),
    sa.Column("at", Moment, nullable=False, server_default=sa.func.now()),
    sa.Column("decision", sa.Text, nullable=False),
    sa.Column("feedback_id", sa.Text),
)
label_projects = sa.Table(
    "label_projects",
    tables,
    sa.Column("url", sa.Text, primary_key=True),
    sa.Column("project", sa.BigInteger, primary_key=True),
    sa.Column("pulled", Moment, nullable=False, server_default="epoch"),
)
label_tasks = sa.Table(
    "label_tasks",
    tables,
    sa.Column("url", sa.Text, primary_key=True),
    sa.Column("project", sa.BigInteger, primary_key=True),
    sa.Column("task", sa.BigInteger, primary_key=True),
    sa.Column("item", sa.Text, nullable=False),
)
judgements = sa.Table(
    "judgements",
    tables,
    sa.Column("tool", sa.Text, primary_key=True),
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("item", sa.Text, nullable=False),
    sa.Column("annotator", sa.Text, nullable=False),
    sa.Column("changed", sa.Text, nullable=False),
    sa.Column("decision", sa.Text),
    sa.Column("rating", sa.Integer),
    sa.Column("better", sa.Text),
    sa.Column("problem", sa.Text),
    sa.Column("at", Moment, nullable=False, server_default=sa.func.now()),
)
outcomes = sa.Table(
    "outcomes",
    tables,
    sa.Column("number", sa.BigInteger, sa.Identity(), primary_key=True),
    sa.Column("at", Moment, nullable=False, server_default=sa.func.now()),
    sa.Column("rollout", sa.Integer, nullable=False),
    sa.Column("arm", sa.Text, nullable=False),
    sa.Column("version", sa.Text, nullable=False),
    sa.Column("seconds", sa.Double, nullable=False),
    sa.Column("tokens", sa.Integer, nullable=False),
    sa.Column("failed", sa.Boolean, nullable=False),
    sa.Column("refused", sa.Boolean, nullable=False),
)
notices = sa.Table(
    "notices",
    tables,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("at", Moment, nullable=False, server_default=sa.func.now()),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("message", JSONB, nullable=False),
    sa.Column("pending", ARRAY(sa.Text), nullable=False),
    sa.Column("due", Moment, nullable=False, server_default=sa.func.now()),
    sa.Column("tries", sa.Integer, nullable=False, server_default="0"),
    sa.Column("problem", sa.Text, nullable=False, server_default=""),
)

Kind = Literal["user", "record", "run", "dataset", "version"]
holds = sa.Table(
    "holds",
    tables,
    sa.Column("kind", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("at", Moment, nullable=False, server_default=sa.func.now()),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
)


def lock(db: sa.Connection, key: int) -> None:
    """Wait until no other transaction holds this lock; ours is let go at its end, or at our death."""
    db.execute(sa.select(sa.func.pg_advisory_xact_lock(key)))


def files() -> dict[int, Path]:
    """The migrations, in order."""
    return {int(path.stem): path for path in sorted(MIGRATIONS.glob("????.sql"))}


def latest() -> int:
    """The newest migration of this version of the code."""
    return max(files())


def migrate(engine: sa.Engine) -> None:
    """Bring the database forward; two processes may start at once."""
    with engine.begin() as db:
        done = _begin(db)
        for number, path in files().items():
            if number not in done:
                _execute(db, path)
                db.exec_driver_sql("insert into migrations (number) values (%s)", (number,))


def go_back(to: int) -> list[int]:
    """Take the migrations after `to` back, newest first, in one transaction; their numbers.

    Stop every process of the newer version first: the next one that connects brings the database forward again.
    Raises ContractError for a number that is none, and where a migration cannot be taken back.
    """
    if to not in files():
        raise ContractError(f"there is no migration {to}", where="migrate --to", mend=f"Name one from {min(files())} to {latest()}.")
    url = settings().database_url
    _engine.cache_clear()
    _statements.cache_clear()
    engine = sa.create_engine(url, poolclass=sa.NullPool, connect_args={"connect_timeout": 5})
    with connected(), engine.begin() as db:
        undone = sorted((number for number in _begin(db) if number > to), reverse=True)
        for number in undone:
            path = MIGRATIONS / f"{number:04d}.down.sql"
            if not path.exists():
                mend = "Restore the backup that was made before it." if number in files() else "Use the version of the code that knows it."
                raise ContractError(f"migration {number} cannot be taken back", where=path.name, mend=mend)
            _execute(db, path)
            db.exec_driver_sql("delete from migrations where number = %s", (number,))
    return undone


def _begin(db: sa.Connection) -> set[int]:
    """Wait for whoever else migrates; what is done."""
    lock(db, SCHEMA_LOCK)
    db.exec_driver_sql("create table if not exists migrations (number integer primary key, at timestamptz not null default now())")
    return set(db.exec_driver_sql("select number from migrations").scalars())


def _execute(db: sa.Connection, path: Path) -> None:
    db.connection.cursor().execute(path.read_text())  # SQLAlchemy would prepare it, and a prepared text is one statement


@lru_cache(maxsize=4)
def _engine(url: str) -> sa.Engine:
    engine = sa.create_engine(url, pool_pre_ping=True, pool_size=8, connect_args={"connect_timeout": 5})
    migrate(engine)
    return engine


@lru_cache(maxsize=4)
def _statements(url: str) -> sa.Engine:
    _engine(url)  # which migrates
    return sa.create_engine(url, isolation_level="AUTOCOMMIT", pool_size=2, connect_args={"connect_timeout": 5})


@contextmanager
def statements() -> Iterator[sa.Connection]:
    """A connection on which each statement is a transaction: one round trip instead of a look at the connection, BEGIN and COMMIT beside it.

    Raises what SQLAlchemy raises, also when the server was started anew since the last time: take `transaction` then.
    """
    with _statements(settings().database_url).connect() as db:
        yield db


@contextmanager
def transaction() -> Iterator[sa.Connection]:
    """A transaction on the one PostgreSQL. Raises TransientError when it cannot be reached."""
    with connected(), _engine(settings().database_url).begin() as db:
        yield db


@contextmanager
def connected() -> Iterator[None]:
    """What a database that cannot be reached raises, in our words."""
    try:
        yield
    except (OperationalError, InterfaceError) as error:
        where = sa.make_url(settings().database_url).render_as_string(hide_password=True)
        mend = "Bring it back (`make up`), then send it again: nothing was stored that was not acknowledged, and nothing is stored twice."
        raise TransientError("the database does not answer", where=where, mend=mend) from error
