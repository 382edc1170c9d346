"""The rows of a query, streamed from any database that SQLAlchemy speaks to."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime

import sqlalchemy as sa

from flywheel.config import sources as config
from flywheel.errors import ContractError, DataError, TransientError
from flywheel.settings import settings
from tasks.sources import forms
from tasks.sources.base import Raw, Reader, Rejected

AT_ONCE = 1000  # rows in memory


class SqlReader(Reader[config.Sql]):
    """A query that fails half-way ends the run: nothing of it is kept."""

    def raw(self) -> Iterator[Raw | Rejected]:
        """The rows, numbered from 1."""
        url, where = self._url(), self.conf.name or "sql"
        try:
            engine = sa.create_engine(url, poolclass=sa.NullPool)
        except (sa.exc.ArgumentError, sa.exc.NoSuchModuleError, ImportError) as error:
            raise ContractError(
                f"this is no database URL ({error})", where=self.conf.url_variable, mend="Write it as dialect+driver://user@host/name."
            ) from error
        if engine.dialect.name == "sqlite":  # it does not check what it stores
            sa.event.listen(engine, "connect", lambda db, _: setattr(db, "text_factory", lambda raw: raw.decode("utf-8", "surrogateescape")))
        query = sa.text(self.conf.query)
        if ":interval_end" in self.conf.query:
            query = query.bindparams(sa.bindparam("interval_end", self.until or datetime.now(UTC), sa.DateTime(timezone=True)))
        try:
            with engine.connect().execution_options(yield_per=AT_ONCE) as db:
                result = db.execute(query)
                if not result.returns_rows:
                    raise ContractError("the query returns no rows", where=where, mend="Write a select.")
                names = list(result.keys())
                forms.check_columns(where, names, self.conf.columns)
                for number, row in enumerate(result, 1):
                    yield where, number, dict(zip(names, row, strict=True))
        except sa.exc.DBAPIError as error:
            raise _meaning(error, where) from error
        except sa.exc.SQLAlchemyError as error:
            raise DataError(f"the query cannot be run ({error})", where=where, mend="Mend `query`.") from error

    def _url(self) -> str:
        variable = self.conf.url_variable
        found = settings().database_url if variable == "FLYWHEEL_DATABASE_URL" else os.environ.get(variable, "")
        if not found:
            raise ContractError(f"the environment variable {variable} is not set", where="url_variable", mend="Set it to the database's URL.")
        return found


def _meaning(error: sa.exc.DBAPIError, where: str) -> DataError | TransientError:
    """Is the database away, or is what it was asked, or what it holds, at fault?"""
    said = " ".join(str(error.orig).split())[:300]
    sqlite = type(error.orig).__module__.startswith("sqlite3")
    away = error.connection_invalidated or (isinstance(error, sa.exc.OperationalError) and (not sqlite or "locked" in said or "unable to open" in said))
    if away:
        return TransientError(f"the database does not answer ({said})", where=where, mend="Bring it back, then retry.")
    return DataError(f"the query failed ({said})", where=where, mend="Mend `query`, or the row it stumbles over; nothing of it was taken.")
