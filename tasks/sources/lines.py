"""Readers of one opened file: JSONL, CSV, Parquet and plain text to raw records, streamed, with every bad record named."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Callable, Iterator
from typing import IO, Any

from pydantic_core import from_json

from flywheel.config import sources as config
from flywheel.errors import DataError
from tasks.sources import forms
from tasks.sources.base import Raw, Rejected, rejected

CHUNK = 1 << 20
LONGEST = 4 << 20  # bytes of one line, or characters of one CSV field
EMPTY = "the file is empty"
OTHER = {
    b"PAR1": "Parquet (name it .parquet)",
    b"PK\3\4": "a ZIP archive (unpack it)",
    b"\xff\xfe": "UTF-16 (save it as UTF-8)",
    b"\xfe\xff": "UTF-16 (save it as UTF-8)",
}


def chunks(file: IO[bytes], uri: str) -> Iterator[bytes]:
    """A text file's bytes without its byte order mark. Raises DataError when it is empty, no text or damaged."""
    first = True
    try:
        while chunk := file.read(CHUNK):
            if first:
                first = False
                if found := next((what for magic, what in OTHER.items() if chunk.startswith(magic)), ""):
                    raise DataError(f"this is not text, it is {found}", where=uri, mend="Or set `format`.")
                if chunk[:512].lstrip().lower().startswith((b"<!doctype html", b"<html")):
                    raise DataError("this is a web page", where=uri, mend="Mend the address: a login or error page came instead of the file.")
                chunk = chunk.removeprefix(b"\xef\xbb\xbf")
            yield chunk
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"the gzip file is damaged or ends early ({error})", where=uri, mend="Copy or write it again.") from error
    if first:
        raise DataError(EMPTY, where=uri, mend="Put one record a line in it.")


def lines(file: IO[bytes], uri: str) -> Iterator[tuple[int, bytes, int]]:
    """(number from 1, bytes, their true number) of each line without its end; of one longer than LONGEST only the beginning is kept."""
    number, line, size = 1, b"", 0
    for chunk in chunks(file, uri):
        first, *more = chunk.split(b"\n")
        if size <= LONGEST:
            line += first
        size += len(first)
        for following in more:
            yield number, line, size
            number, line, size = number + 1, following, len(following)
    if size:
        yield number, line, size


def too_long(uri: str, number: int, line: bytes, size: int) -> Rejected:
    """What becomes of a line longer than LONGEST."""
    return rejected(uri, number, f"the line has {size} bytes, more than {LONGEST}", line)


def jsonl(file: IO[bytes], uri: str, _conf: config.Files) -> Iterator[Raw | Rejected]:
    """One JSON object a line; blank lines are nothing."""
    blank = True
    for number, line, size in lines(file, uri):
        if size > LONGEST:
            yield too_long(uri, number, line, size)
        elif line.strip():
            try:
                record = from_json(line, allow_inf_nan=False)
            except ValueError as error:
                yield rejected(uri, number, f"not JSON ({error})", line)
            else:
                yield (uri, number, record) if isinstance(record, dict) else rejected(uri, number, "not a JSON object", line)
        else:
            continue
        blank = False
    if blank:
        raise DataError(EMPTY, where=uri, mend="Put one record a line in it.")


def table(file: IO[bytes], uri: str, conf: config.Files) -> Iterator[Raw | Rejected]:
    """CSV with a header."""
    csv.field_size_limit(LONGEST)
    last, cut = 0, list[Rejected]()

    def feed() -> Iterator[str]:
        nonlocal last
        for number, line, size in lines(file, uri):
            last = number
            if size > LONGEST:
                cut.append(too_long(uri, number, line, size))
            else:
                yield line.decode("utf-8", "surrogateescape") + "\n"

    reader = csv.reader(feed(), strict=True)
    header: list[str] = []
    while True:
        start, row, problem = last + 1, list[str](), ""
        try:
            row = next(reader, row)
        except csv.Error as error:
            problem = f"not CSV ({error})"
        yield from cut
        cut.clear()
        if not row and not problem:
            if last < start:
                break
        elif problem and not header:
            raise DataError(f"the header cannot be read: {problem}", where=uri, mend="Save it as CSV with a header.")
        elif problem:
            yield rejected(uri, start, problem)
        elif not header:
            header = [name.strip() for name in row]
            forms.check_columns(uri, header, conf.columns)
        elif len(row) != len(header):
            yield rejected(uri, start, f"{len(row)} fields where the header has {len(header)}", ",".join(row))
        else:
            yield uri, start, dict(zip(header, row, strict=True))
    if not header:
        raise DataError(EMPTY, where=uri, mend="A CSV file opens with its header.")


def parquet(file: IO[bytes], uri: str, conf: config.Files) -> Iterator[Raw | Rejected]:
    """Parquet, a thousand rows at a time, only the columns that mean something to us."""
    import pyarrow as pa
    from pyarrow import parquet

    number = 1
    try:
        opened = parquet.ParquetFile(file)
        names = opened.schema_arrow.names
        forms.check_columns(uri, names, conf.columns)
        wanted = {*forms.FIELDS, *(path for theirs in (conf.time, *conf.columns.values()) for path in (theirs, theirs.split(".")[0]))}
        for batch in opened.iter_batches(batch_size=1000, columns=[name for name in names if name in wanted]):
            try:
                yield from ((uri, number + i, record) for i, record in enumerate(batch.to_pylist()))
            except UnicodeDecodeError:
                yield from _one_by_one(batch, uri, number)
            number += batch.num_rows
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk or the network, not the file
        raise DataError(
            f"this is not a Parquet file, or it is damaged ({str(error)[:200]})", where=uri, mend="Name it for what it is, or write it again."
        ) from error


def _one_by_one(batch: Any, uri: str, number: int) -> Iterator[Raw | Rejected]:
    """The rows of a batch in which one is not UTF-8."""
    for i in range(batch.num_rows):
        try:
            yield uri, number + i, batch.slice(i, 1).to_pylist()[0]
        except UnicodeDecodeError as error:
            yield rejected(uri, number + i, f"the text is not UTF-8 ({error.reason})", error.object)


def text(file: IO[bytes], uri: str, conf: config.Files) -> Iterator[Raw | Rejected]:
    """Plain text: the file, or each of its paragraphs (blank lines part them), answers the question that the config asks."""
    name = uri.rsplit("/", 1)[-1]
    title = name.removesuffix(".gz").removesuffix(".txt")
    count = 0
    for number, block, size in _blocks(file, uri, whole=conf.each == "page"):
        count += 1
        if size > LONGEST:
            yield too_long(uri, number, block, size)
            continue
        try:
            written = block.decode().strip()
        except UnicodeDecodeError as error:
            yield rejected(uri, number, f"the text is not UTF-8 ({error.reason})", block)
        else:
            yield uri, number, {"instruction": conf.question.format(title=title, address=name, number=count), "output": written, "group": title}
    if not count:
        raise DataError(EMPTY, where=uri, mend="Put some text in it.")


def _blocks(file: IO[bytes], uri: str, whole: bool) -> Iterator[tuple[int, bytes, int]]:
    """Lines between blank lines, or all of them, in the form of `lines`."""
    block: list[bytes] = []
    start = total = 0
    for number, line, size in lines(file, uri):
        if line.strip() or (whole and block):
            start = start if block else number
            total += size + 1
            if total <= LONGEST or not block:
                block.append(line.rstrip(b"\r"))
        elif block:
            yield start, b"\n".join(block), total
            block, total = [], 0
    if block:
        yield start, b"\n".join(block), total


FORMATS: dict[str, Callable[[IO[bytes], str, Any], Iterator[Raw | Rejected]]] = {"jsonl": jsonl, "ndjson": jsonl, "csv": table, "parquet": parquet, "txt": text}
