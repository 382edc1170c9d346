"""Find passages: by meaning (pgvector, HNSW) and by words (BM25 over PostgreSQL's lexemes), fused by reciprocal rank.

What a tenant may not see, and what the filter does not match, is left out inside the query, before anything is ranked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.exc import ProgrammingError

from flywheel import embedding, ledger
from flywheel.errors import NotFound
from rag.words import searchable

FUSED = 50  # best passages of each kind of search
# Reciprocal rank fusion (Cormack et al., 2009). Their constant is 60, for many rankings that are alike; with two, of which the one by words is
# the better on text with names in it, these found more in benchmarks/context.py than either ranking alone.
RANK, MEANING = 10, 0.5
RERANKED = 20
K1, B = 1.2, 0.75  # BM25
COMMON = 0.1  # a word in a larger share of the passages is left out while a rarer one is there
Mode = Literal["hybrid", "dense", "words"]


@dataclass(frozen=True)
class Index:
    """What an alias names: everything a question must be embedded and judged by."""

    id: int
    embedder: str
    url: str
    language: str
    min_similarity: float
    reranker: str
    passages: int
    mean_length: float


@dataclass(frozen=True)
class Hit:
    """A passage that was found; offsets are characters of its document. `similarity` is the cosine to the question, `score` what ranked it."""

    id: str
    document: str
    title: str
    text: str
    start: int
    end: int
    metadata: Mapping[str, Any]
    score: float
    similarity: float


def current(alias: str = "default") -> Index:
    """The index that an alias names. Raises NotFound when there is none."""
    query = """select i.id, embedder, url, language::text, min_similarity, reranker, passages, mean_length
               from rag.aliases a join rag.indexes i on i.id = a.index where a.alias = %s"""
    try:
        with ledger.transaction() as db:
            row = db.exec_driver_sql(query, (alias,)).one_or_none()
    except ProgrammingError as error:
        if "does not exist" not in str(error.orig):
            raise
        row = None
    if row is None:
        raise NotFound("there is no such index", where=f"retrieval index {alias}", mend="Name documents under `index` in the config and run the DAG `index`.")
    return Index(*row)


def content(index: Index) -> str:
    """The hash over all passages of an index, as its last build wrote it."""
    with ledger.transaction() as db:
        found = db.exec_driver_sql("select content from rag.versions where index = %s order by number desc limit 1", (index.id,)).scalar()
    return str(found)


def search(
    question: str, k: int = 4, *, filter: Mapping[str, Any] | None = None, tenants: Sequence[str] = (), alias: str = "default", mode: Mode = "hybrid"
) -> list[Hit]:
    """The k best passages that these tenants may see and whose metadata holds `filter`, best first.

    Raises NotFound without an index, TransientError when the database or the embedding server is away.
    """
    index = current(alias)
    vector = embedding.embed([question], index.embedder, index.url, "query")[0]
    try:
        found = nearest(index, question, vector, max(k, RERANKED) if index.reranker else k, filter=filter, tenants=tenants, mode=mode)
    except ProgrammingError as error:  # it was replaced twice while the question was embedded
        if "does not exist" not in str(error.orig):
            raise
        return search(question, k, filter=filter, tenants=tenants, alias=alias, mode=mode)
    return rerank(question, found, index.reranker)[:k] if index.reranker else found


def nearest(
    index: Index, question: str, vector: Any, k: int, *, filter: Mapping[str, Any] | None = None, tenants: Sequence[str] = (), mode: Mode = "hybrid"
) -> list[Hit]:
    """`search` with the question's vector at hand."""
    values = {
        "vector": "[" + ",".join(f"{x:.5f}" for x in vector) + "]", "words": searchable(question.replace("\0", " ")), "language": index.language, "k": k,
        "filter": json.dumps(dict(filter or {})), "tenants": list(tenants), "total": index.passages, "mean": max(index.mean_length, 1.0),
    }  # fmt: skip
    with ledger.transaction() as db:
        _prepare(db)
        rows = db.exec_driver_sql(_sql(index.id, bool(filter), mode), values).all()
    return [Hit(*row) for row in rows]


def _prepare(db: sa.Connection) -> None:
    """Look at enough neighbours, and on until enough of them may be seen."""
    db.exec_driver_sql(f"select set_config('hnsw.ef_search', '{2 * FUSED}', true), set_config('hnsw.iterative_scan', 'relaxed_order', true)")


@lru_cache(maxsize=32)
def _sql(n: int, filtered: bool, mode: Mode) -> str:
    """The one query. `n` is an index's number; everything a person writes is a parameter.

    BM25 without its constant factor, which changes no order, and in floats: PostgreSQL's exact numbers are many times as slow. What may be seen is looked up
    from the best passage on, and only until there are enough.
    """
    seen = "(p.tenants = '{}' or p.tenants && %(tenants)s::text[])" + (" and p.metadata @> %(filter)s::jsonb" if filtered else "")
    return f"""
    with near as materialized (
        select p.number, p.embedding <=> %(vector)s::halfvec distance from rag.passages_{n} p where {seen}
        order by p.embedding <=> %(vector)s::halfvec limit {FUSED if mode != "words" else 0}
    ), asked as materialized (
        select lexeme, l.passages, ln(1 + (%(total)s - l.passages + 0.5) / (l.passages + 0.5))::float weight
        from unnest(tsvector_to_array(to_tsvector(%(language)s::regconfig, %(words)s))) lexeme join rag.lexemes_{n} l using (lexeme)
    ), scored as (
        select o.passage, sum(a.weight * o.count / (o.count + {K1 * (1 - B)}::float + {K1 * B}::float / %(mean)s * o.length)) score
        from asked a join rag.postings_{n} o using (lexeme) where a.passages <= greatest({COMMON} * %(total)s, (select min(passages) from asked))
        group by 1 order by 2 desc, 1
    ), told as materialized (
        select p.number, s.score from scored s join rag.passages_{n} p on p.number = s.passage where {seen}
        order by s.score desc, s.passage limit {FUSED if mode != "dense" else 0}
    ), ranked as (
        select number, row_number() over (order by distance, number) place, {MEANING} weight from near
        union all select number, row_number() over (order by score desc, number), 1 from told
    ), fused as (select number, sum(weight / ({RANK} + place)) score from ranked group by 1)
    select p.id, p.document, p.title, p.body, p.start, p.stop, p.metadata, f.score::float, 1 - (p.embedding <=> %(vector)s::halfvec)
    from fused f join rag.passages_{n} p using (number) order by f.score desc, p.embedding <=> %(vector)s::halfvec, p.id limit %(k)s
    """


@lru_cache(maxsize=1)
def _cross_encoder(name: str) -> tuple[Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    folder: Path = embedding.folder(name)
    return AutoTokenizer.from_pretrained(str(folder)), AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()


def rerank(question: str, hits: Sequence[Hit], name: str) -> list[Hit]:
    """The hits in the order of a cross-encoder, which reads question and passage together; `score` is then its own."""
    import torch

    if not hits:
        return []
    tokenizer, model = _cross_encoder(name)
    batch = tokenizer([question] * len(hits), [f"{h.title}\n{h.text}" for h in hits], padding=True, truncation=True, max_length=512, return_tensors="pt")
    with torch.inference_mode():
        scores = model(**batch).logits[:, -1].tolist()
    ranked = sorted(zip(scores, hits, strict=True), key=lambda pair: -pair[0])
    return [Hit(**{**hit.__dict__, "score": score}) for score, hit in ranked]
