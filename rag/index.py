"""Build and update an index: what is new is embedded, what is gone is deleted, and one transaction shows it all at once.

Embeddings are committed as they are made, beside the index; a build that is killed goes on from them. Another embedding model makes
another index beside the old one, and the alias is switched in the transaction that fills it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy
import psycopg

from flywheel import embedding
from flywheel.errors import ContractError, TransientError
from rag import database
from rag.splitting import Passage
from rag.words import searchable

BATCH = 256
COLUMNS = "id, sha256, document, title, body, start, stop, tenants, metadata"
Database = psycopg.Connection[Any]


@dataclass(frozen=True)
class Wanted:
    """How an index is to be: another embedder or language is another index."""

    alias: str = "default"
    embedder: str = embedding.BUILT_IN
    url: str = ""
    language: str = "english"
    min_similarity: float = 0.25
    reranker: str = ""
    keep: int = 1


@dataclass(frozen=True)
class Built:
    """What a build did; `content` is a hash over all passages, so two indexes of the same documents have the same."""

    index: int
    version: int
    added: int
    removed: int
    embedded: int
    passages: int
    content: str


def build(passages: Iterable[Passage], wanted: Wanted, run: str = "", say: Callable[[str], None] = lambda _: None) -> Built:
    """Make the index that `wanted.alias` names hold exactly these passages. Raises TransientError when another build runs."""
    with database.connect() as db:
        database.prepare(db)
        if not _one(db, "select pg_try_advisory_lock(%s, hashtext(%s))", database.BUILD_LOCK, wanted.alias)[0]:
            raise TransientError("another build of this index runs", where=f"index {wanted.alias}", mend="Wait for it, then retry.")
        try:
            index = _index(db, wanted)
            _load(db, index, passages)
            embedded = _embed(db, index, wanted, say)
            built = _show(db, index, wanted, run, embedded)
            if 10 * (built.added + built.removed) > built.passages:
                # Not in the transaction: without it the planner and index-only scans know nothing of what is new.
                for table in ("passages", "postings", "lexemes"):
                    db.execute(f"vacuum analyze rag.{table}_{index}")
        finally:
            if not db.broken:  # at once: the end of a connection takes the server a moment
                db.execute("select pg_advisory_unlock(%s, hashtext(%s))", (database.BUILD_LOCK, wanted.alias))
    return built


def _index(db: Database, wanted: Wanted) -> int:
    """The index of this alias, embedder and language; a new one, empty and not yet named by the alias, when there is none."""
    dimension = embedding.embed(["dimension"], wanted.embedder, wanted.url).shape[1]
    key = (wanted.alias, wanted.embedder, wanted.url, wanted.language)
    with db.transaction():
        found = db.execute(
            "select id, dimension from rag.indexes where alias = %s and embedder = %s and url = %s and language = %s::regconfig and removed_at is null", key
        ).fetchone()
        if found and found[1] == dimension:
            settings = (wanted.min_similarity, wanted.reranker, found[0])
            db.execute("update rag.indexes set min_similarity = %s, reranker = %s where id = %s", settings)
            return int(found[0])
        if found:  # the same name, and another model behind it
            db.execute("update rag.indexes set removed_at = now() where id = %s", (found[0],))
        try:
            values = (*key, dimension, wanted.min_similarity, wanted.reranker)
            into = (
                "insert into rag.indexes (alias, embedder, url, language, dimension, min_similarity, reranker) values (%s, %s, %s, %s::regconfig, %s, %s, %s)"
            )
            index = int(_one(db, f"{into} returning id", *values)[0])
        except psycopg.errors.UndefinedObject as error:
            raise ContractError(
                f"PostgreSQL has no text search configuration {wanted.language}", where="index.language", mend="Choose one that `\\dF` of psql lists."
            ) from error
        db.execute(database.TABLES.format(n=index, dimension=dimension))
        return index


def _load(db: Database, index: int, passages: Iterable[Passage]) -> None:
    """The passages that there should be, into a table of this session; of those that are there already, the id alone."""
    db.execute("create temp table incoming (id text primary key, sha256 text, document text, title text, body text, start int, stop int, tenants text[], "
               "metadata jsonb, words text)")  # fmt: skip
    there = {row[0] for row in db.execute(f"select id from rag.passages_{index}")}
    seen: set[str] = set()
    with db.cursor().copy(f"copy incoming ({COLUMNS}, words) from stdin") as copy:
        for p in passages:
            if (identity := p.id) in seen:
                continue
            seen.add(identity)
            if identity in there:
                copy.write_row((identity, *(None,) * 9))
            else:
                row = (identity, p.sha256, p.document.uri, p.title, p.text, p.start, p.end, sorted(p.document.tenants), json.dumps(dict(p.document.metadata)))
                copy.write_row((*row, searchable(f"{p.title}\n{p.text}")))
    db.execute("analyze incoming")


def _embed(db: Database, index: int, wanted: Wanted, say: Callable[[str], None]) -> int:
    """Embed what neither the index nor a build that was killed has embedded; each batch is committed."""
    missing = f"""select distinct on (sha256) sha256, title, body from incoming i where sha256 is not null
                  and not exists (select from rag.passages_{index} p where p.sha256 = i.sha256)
                  and not exists (select from rag.embedded_{index} e where e.sha256 = i.sha256)"""
    rows = sorted(db.execute(missing).fetchall(), key=lambda row: len(row[2]))  # likes together: less padding
    for begin in range(0, len(rows), BATCH):
        batch = rows[begin : begin + BATCH]
        vectors = embedding.embed([f"{title}\n{body}" for _, title, body in batch], wanted.embedder, wanted.url)
        with db.transaction(), db.cursor().copy(f"copy rag.embedded_{index} (sha256, embedding) from stdin (format binary)") as copy:
            for (sha, _, _), vector in zip(batch, vectors, strict=True):
                copy.write_row((sha.encode(), _halfvec(vector)))
        say(f"  {begin + len(batch)} of {len(rows)} passages embedded")
    return len(rows)


def _one(db: Database, query: str, *values: Any) -> tuple[Any, ...]:
    """The row of a query that always has one."""
    row: tuple[Any, ...] | None = db.execute(query, values).fetchone()  # type: ignore[arg-type]
    assert row is not None
    return row


def _halfvec(vector: numpy.ndarray) -> bytes:
    """pgvector's wire format: dimension, nothing, and 16-bit floats, all big-endian."""
    return struct.pack(">HH", len(vector), 0) + vector.astype(">f2").tobytes()


def _show(db: Database, index: int, wanted: Wanted, run: str, embedded: int) -> Built:
    """The one transaction that changes what a search sees."""
    with db.transaction():
        # What is new came with its text, and no other build runs: of the rest nothing but the id is looked at.
        gone = f"select number from rag.passages_{index} p where not exists (select from incoming i where i.id = p.id)"
        db.execute(f"""with gone as (delete from rag.postings_{index} where passage in ({gone}) returning lexeme)
                       update rag.lexemes_{index} l set passages = l.passages - n from (select lexeme, count(*) n from gone group by 1) g
                       where g.lexeme = l.lexeme""")
        added = db.execute(f"""
            insert into rag.passages_{index} ({COLUMNS}, embedding) select {", ".join(f"i.{c}" for c in COLUMNS.split(", "))}, known.embedding
            from incoming i, lateral (
                (select embedding from rag.embedded_{index} e where e.sha256 = i.sha256)
                union all (select embedding from rag.passages_{index} p where p.sha256 = i.sha256 limit 1) limit 1
            ) known where i.sha256 is not null order by i.document, i.start
        """).rowcount
        removed = db.execute(f"delete from rag.passages_{index} p where not exists (select from incoming i where i.id = p.id)").rowcount
        db.execute(f"""
            create temp table fresh on commit drop as
            select p.number passage, lexeme, least(cardinality(positions), 255)::smallint count
            from incoming i join rag.passages_{index} p using (id), unnest(to_tsvector('{wanted.language}', i.words))
            where i.sha256 is not null
        """)
        db.execute(f"""insert into rag.postings_{index} (lexeme, passage, count, length)
                       select lexeme, passage, count, sum(count) over (partition by passage) from fresh order by lexeme, passage""")
        db.execute(f"""insert into rag.lexemes_{index} select lexeme, count(*) from fresh group by 1
                       on conflict (lexeme) do update set passages = lexemes_{index}.passages + excluded.passages""")
        db.execute(f"delete from rag.lexemes_{index} where passages = 0")
        db.execute(f"delete from rag.embedded_{index}")
        db.execute("set local maintenance_work_mem = '512MB'")
        db.execute(f"create index if not exists nearest_{index} on rag.passages_{index} using hnsw (embedding halfvec_cosine_ops)")
        return _publish(db, index, wanted, run, added, removed, embedded)


def _publish(db: Database, index: int, wanted: Wanted, run: str, added: int, removed: int, embedded: int) -> Built:
    """Count, name it by the alias, note the version, and drop indexes that are two switches old."""
    count, content = _one(db, f"select count(*), coalesce(encode(sha256(string_agg(id, '' order by id)::bytea), 'hex'), '') from rag.passages_{index}")
    length = f"(select coalesce(sum(count), 0)::real / greatest({count}, 1) from rag.postings_{index})"
    db.execute(f"update rag.indexes set passages = %s, mean_length = {length} where id = %s", (count, index))
    use(db, wanted.alias, index)
    into = "insert into rag.versions (index, run, added, removed, passages, content) values (%s, %s, %s, %s, %s, %s) returning number"
    version = _one(db, into, index, run, added, removed, count, content)[0]
    older = "select id from rag.indexes where alias = %s and id <> %s and removed_at is null order by id desc offset %s"
    for (old,) in db.execute(older, (wanted.alias, index, wanted.keep)).fetchall():
        drop(db, old)
    return Built(index, version, added, removed, embedded, count, content)


def use(db: Database, alias: str, index: int) -> None:
    """Let an alias name an index, in the caller's transaction."""
    db.execute("insert into rag.aliases values (%s, %s) on conflict (alias) do update set index = excluded.index", (alias, index))


def drop(db: Database, index: int) -> None:
    """Drop an index's tables, in the caller's transaction; its versions stay on record."""
    for table in ("passages", "postings", "lexemes", "embedded"):
        db.execute(f"drop table if exists rag.{table}_{index}")
    db.execute("update rag.indexes set removed_at = now() where id = %s", (index,))
