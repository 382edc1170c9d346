"""The steps of `clean` that compare the records of a set with one another: exact and near duplicates, and conflicting answers.

Each takes the frame and its options and names the rows that go, with the reason. Which of several stays hangs on the records alone
(`Row.rank`): a held-out one before all others, then one that people gave, then the smallest id.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, reduce
from typing import TYPE_CHECKING, Any

from flywheel.config.cleaning import Conflicts, ExactDuplicates, NearDuplicates
from tasks import likeness
from tasks.cleaning.frame import Frame, named, table

if TYPE_CHECKING:
    import daft
    import numpy as np

HASHES = 128
RECALL = 0.995  # least chance that two records just at the threshold are compared
GROUPED = 5_000_000  # bands of records that are grouped at a time
WINDOW = 16  # in a crowded bucket each is compared with so many before it: those that are one hang together all the same


def exact(frame: Frame, _options: ExactDuplicates) -> daft.DataFrame:
    """All but the first of the records of one kind that read the same."""
    from daft import Window, col, lit
    from daft.functions import concat, row_number, substr
    from daft.functions import hash as hashed

    key = hashed(col("kind"), col("prompt_hash"), col("answer_hash")).alias("key")
    rows = frame.left.select("row", "rank", "record_hash", key)
    some = rows.join(rows.groupby("key").agg(col("row").count().alias("n")).where("n > 1"), on="key", how="semi")
    some = some.with_column("place", row_number().over(Window().partition_by("key").order_by("rank", "record_hash")))
    first = some.where("place = 1").select("key", substr(col("rank"), 2).alias("kept"))
    return some.where("place > 1").join(first, on="key").select("row", concat(lit("the same as "), col("kept")).alias("reason"))


def near(frame: Frame, options: NearDuplicates) -> daft.DataFrame:
    """All but the first of the records of one kind that hang together by a Jaccard similarity of their 3-word shingles.

    MinHash signatures in bands find the pairs that may be alike; each pair is then compared in truth.
    """
    from daft import col, lit
    from daft.functions import concat, minhash
    from daft.functions import hash as hashed

    size = rows_a_band(options.similarity)
    count = HASHES // size
    texts = frame.left.select("row", "kind", concat(concat(col("prompt"), lit(" ")), col("answer")).alias("text"))
    signature = minhash(col("text"), num_hashes=count * size, ngram_size=likeness.SIZE)
    banded = frame.save("bands", texts.select("row", hashed(col("text")).alias("place"), _bands(count, size)(signature, hashed(col("kind")))))
    pairs = frame.save(
        "pairs", reduce(lambda a, b: a.concat(b), (frame.save("bucket", _bucketed(some)) for some in _slices(banded, count, frame.rows))).distinct()
    )
    ends = pairs.select(col("a").alias("row")).concat(pairs.select(col("b").alias("row"))).distinct()
    some = frame.save("compared", texts.join(ends, on="row", how="semi").select("row", "text"))
    for end in "ab":
        pairs = pairs.join(some.select(col("row").alias(end), col("text").alias(f"text_{end}")), on=end)
    compared = pairs.select("a", "b", _jaccard()(col("text_a"), col("text_b")).alias("similarity"))
    alike = {(a, b): similarity for a, b, similarity in _rows(compared.where(f"similarity >= {options.similarity}"))}
    nodes = sorted({end for pair in alike for end in pair})
    facts = frame.left.join(named(nodes, [""] * len(nodes)), on="row", how="semi").select("rank", "record_hash", "row", "id")
    gone = _all_but_the_first(alike, sorted(_rows(facts)))
    return named(list(gone), list(gone.values()))


def _slices(banded: daft.DataFrame, count: int, rows: int) -> Iterator[daft.DataFrame]:
    """`row`, `place` and `band` of every record in every band, in as many frames as keep the grouping of each in bounds."""
    from daft import col
    from daft.functions import to_list

    width, shares = max(1, GROUPED // max(1, rows)), -(-rows // GROUPED)
    for start in range(0, count, width):
        bands = to_list(*(col(f"band{number}") for number in range(start, min(start + width, count))))
        some = banded.select("row", "place", bands.alias("band")).explode("band")
        for share in range(shares):
            yield some.where(f"band % {shares} = {share}") if shares > 1 else some


def _bucketed(banded: daft.DataFrame) -> daft.DataFrame:
    """The pairs `a`, `b` that share a band."""
    from daft import col
    from daft.functions import list_agg

    shared = banded.groupby("band").agg(col("row").count().alias("n"), col("row").min().alias("a"), col("row").max().alias("b")).where("n > 1").collect()
    crowded = banded.join(shared.where("n > 2"), on="band", how="semi").groupby("band").agg(list_agg(col("row")), list_agg(col("place")))
    crowded = crowded.select(_pairs()(col("row"), col("place")).alias("pair")).explode("pair").select(col("pair")["a"].alias("a"), col("pair")["b"].alias("b"))
    return shared.where("n = 2").select("a", "b").concat(crowded).distinct()


def conflicts(frame: Frame, options: Conflicts) -> daft.DataFrame:
    """Training records whose prompt has several answers, as far as the policy lets them go; such prompts are counted in any case."""
    from daft import col, lit, sql_expr
    from daft.functions import concat

    rows = frame.left.where("split = 'train' and kind = 'supervised'").select("row", "prompt_hash", "answer_hash", sql_expr("rank < '11'").alias("given"))
    answers = rows.groupby("prompt_hash").agg(col("answer_hash").count_distinct().alias("answers"), col("given").bool_or().alias("corrected"))
    several = answers.where("answers > 1").collect()
    frame.notes["conflicts"] = several.count_rows()
    asked = rows.join(several, on="prompt_hash")
    if options.policy == "keep_feedback":
        asked = asked.where("corrected and not given")
    elif options.policy == "keep_all":
        asked = asked.where("false")
    why = {"keep_feedback": " answers to this prompt, and people gave another", "drop_all": " answers to this prompt", "keep_all": ""}[options.policy]
    return asked.select("row", concat(col("answers").cast("string"), lit(why)).alias("reason"))


def rows_a_band(similarity: float) -> int:
    """The most hashes a band may have so that two records with this similarity still share a band with a chance of RECALL."""
    return max((n for n in range(1, HASHES + 1) if 1 - (1 - similarity**n) ** (HASHES // n) >= RECALL), default=1)


def _bands(count: int, size: int) -> Any:
    """From signatures and kinds to a key for each band: equal for equal hashes in the same band, of the same kind."""
    import daft
    import numpy as np
    import pyarrow as pa

    names = [f"band{number}" for number in range(count)]

    @daft.func.batch(return_dtype=daft.DataType.struct(dict.fromkeys(names, daft.DataType.uint64())), unnest=True)
    def bands(signatures: daft.Series, kinds: daft.Series) -> pa.Array:
        hashes = np.ascontiguousarray(_flat(signatures.to_arrow()).reshape(-1, count * size).T)
        kind, keys = _flat(kinds.to_arrow()), []
        for number in range(count):
            key = kind + np.uint64(number)
            for place in range(number * size, (number + 1) * size):
                key = (key ^ hashes[place]) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(29)
            keys.append(pa.Array.from_buffers(pa.uint64(), len(key), [None, pa.py_buffer(key)]))
        return pa.StructArray.from_arrays(keys, names)

    return bands


def _flat(array: Any) -> np.ndarray:
    import numpy as np
    import pyarrow as pa

    array = array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    array = array.storage if isinstance(array, pa.ExtensionArray) else array
    return np.from_dlpack(array.flatten() if pa.types.is_nested(array.type) else array)  # to_numpy would import pandas


def _pairs() -> Any:
    """From the rows of a bucket to the pairs that are compared: each with those before it, by a hash of the text."""
    import daft

    number = daft.DataType.uint64()

    @daft.func.batch(return_dtype=daft.DataType.list(daft.DataType.struct({"a": number, "b": number})))
    def pairs(buckets: daft.Series, places: daft.Series) -> list[list[dict[str, int]]]:
        found = []
        for rows, order in zip(buckets.to_pylist(), places.to_pylist(), strict=True):
            rows = [row for _, row in sorted(zip(order, rows, strict=True))]
            ends = ((rows[j], rows[i]) for i in range(1, len(rows)) for j in range(max(0, i - WINDOW), i))
            found.append([{"a": min(pair), "b": max(pair)} for pair in ends])
        return found

    return pairs


def _jaccard() -> Any:
    import daft

    @daft.func.batch(return_dtype=daft.DataType.float64())
    def jaccard(ours: daft.Series, theirs: daft.Series) -> list[float]:
        grams = lru_cache(maxsize=1024)(lambda text: likeness.grams(text.split()))
        return [likeness.jaccard(grams(a), grams(b)) for a, b in zip(ours.to_pylist(), theirs.to_pylist(), strict=True)]

    return jaccard


def _rows(frame: daft.DataFrame) -> Iterator[tuple[Any, ...]]:
    return zip(*(column.to_pylist() for column in table(frame).columns), strict=True)


def _all_but_the_first(alike: dict[tuple[int, int], float], facts: list[tuple[str, int, int, str]]) -> dict[int, str]:
    """Which rows go, and why, from similarities of pairs (the smaller row first) and what is known of each row, in order: rank, hash, row and id."""
    parent = {row: row for _, _, row, _ in facts}

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for a, b in alike:
        parent[root(a)] = root(b)
    heads: dict[int, tuple[int, str]] = {}
    gone = {}
    for _, _, row, id in facts:
        head, name = heads.setdefault(root(row), (row, id))
        if row != head:
            similarity = alike.get((min(row, head), max(row, head)))
            gone[row] = f"like {name}, through others between them" if similarity is None else f"{similarity:.2f} like {name}"
    return gone
