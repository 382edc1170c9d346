"""Where records come from: one generator a kind of source, yielding rows or what was wrong with a line.

A new source is one generator here and one name in `flywheel.config.Source.kind`.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import sysconfig
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from flywheel import store
from flywheel.config import Source
from flywheel.errors import ContractError, DataError

REQUIRED = ("instruction", "output")


class Row(BaseModel):
    """One record as its owner wrote it. Other fields are left out."""

    model_config = ConfigDict(strict=True, extra="ignore")

    instruction: str
    input: str = ""
    output: str
    group: str = ""
    slice: str = ""


@dataclass(frozen=True)
class Rejected:
    """A line that is no record: where it stood, why, and the line itself."""

    source: str
    line: int
    reason: str
    text: str


Found = tuple[str, int, Row] | Rejected


def read(source: Source) -> Iterator[Found]:
    """Every record or rejected line of a source, as (file, line number from 1, row)."""
    if source.kind == "docs":
        yield from docs()
        return
    uris = store.glob(source.path)
    if not uris:
        raise ContractError("no file matches", where=f"ingest.sources: {source.path}", mend="Mend the path.")
    for uri in uris:
        yield from _file(uri)


def identity(source: Source) -> str:
    """A hash that changes when what the source would yield changes."""
    if source.kind == "docs":
        return store.sha256_text("docs", sysconfig.get_python_version(), str(sum(1 for _ in _modules())))
    return store.sha256_text(*(part for uri in store.glob(source.path) for part in (uri, _hash(uri))))


def _hash(uri: str) -> str:
    try:
        return store.sha256_file(store.local_path(uri)) if store.is_local(uri) else store.sha256_text(store.read_bytes(uri).hex())
    except FileNotFoundError as error:
        raise ContractError("there is no such file", where=f"ingest.sources: {uri}", mend="Mend the path.") from error
    except IsADirectoryError as error:
        raise ContractError("this is a folder", where=f"ingest.sources: {uri}", mend="Name the files in it, e.g. folder/*.jsonl.") from error


def _modules() -> Iterator[tuple[str, Path]]:
    """Public modules of the standard library, by name."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] in ("site-packages", "test", "idlelib", "lib2to3", "ensurepip", "turtledemo") or "tests" in parts or "test" in parts:
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and not any(part.startswith("_") for part in name.split(".")):
            yield name, path


def docs() -> Iterator[Found]:
    """The standard library's own docstrings as questions and answers, grouped by top-level module (PSF licence)."""
    for module, path in _modules():
        try:
            tree = ast.parse(path.read_bytes())
        except SyntaxError:
            continue
        for name, line, kind, docstring in _documented(tree, module):
            answer = re.sub(r"\s+", " ", docstring.strip().split("\n\n")[0]).strip()
            if 40 <= len(answer) <= 500:
                verb = "is" if kind == "class" else "does"
                question = f"What {verb} `{name}`?" if kind == "class" else f"What {verb} `{name}` do?"
                yield module, line, Row(instruction=question, output=answer, group=module.split(".")[0], slice=kind)


def _documented(tree: ast.Module, module: str) -> Iterator[tuple[str, int, str, str]]:
    """(qualified name, line, kind, docstring) of public functions, classes and methods."""

    def walk(body: list[ast.stmt], prefix: str, kind: str) -> Iterator[tuple[str, int, str, str]]:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            name = f"{prefix}.{node.name}"
            docstring = ast.get_docstring(node)
            if docstring:
                yield name, node.lineno, "class" if isinstance(node, ast.ClassDef) else kind, docstring
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body, name, "method")

    yield from walk(tree.body, module, "function")


def _file(uri: str) -> Iterator[Found]:
    suffix = uri.rsplit(".", 1)[-1].lower()
    if suffix not in READERS:
        raise ContractError(f"files of kind .{suffix} cannot be read", where=uri, mend="Use .jsonl, .csv or .parquet.")
    data = store.read_bytes(uri)
    if not data.strip():
        raise DataError("the file is empty", where=uri, mend="Put one record a line in it.")
    yield from READERS[suffix](uri, data)


def _jsonl(uri: str, data: bytes) -> Iterator[Found]:
    if data[:4] == b"PAR1" or b"\0" in data[:4096]:
        raise ContractError("this is not text, so not JSONL", where=uri, mend="Name the file for what it is (.parquet?), or export it as JSONL.")
    for number, line in enumerate(data.split(b"\n"), 1):
        if line.strip():
            yield _checked(uri, number, line.decode("utf-8", "replace"), lambda line=line: Row.model_validate_json(line))  # type: ignore[misc]


def _csv(uri: str, data: bytes) -> Iterator[Found]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ContractError(f"this is not UTF-8 text (byte {error.start})", where=uri, mend="Save the CSV file as UTF-8.") from error
    reader = csv.DictReader(io.StringIO(text, newline=""))
    _require(uri, list(reader.fieldnames or []))
    line = reader.line_num + 1
    for record in reader:
        values = {k: v for k, v in record.items() if k and v is not None}
        yield _checked(uri, line, json.dumps(record, default=str), lambda values=values: Row.model_validate(values))  # type: ignore[misc]
        line = reader.line_num + 1


def _parquet(uri: str, data: bytes) -> Iterator[Found]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise ContractError("this is not a Parquet file", where=uri, mend="Name it for what it is, or write it again.") from error
    _require(uri, table.column_names)
    for number, record in enumerate(table.to_pylist(), 1):
        values = {k: v for k, v in record.items() if v is not None}
        yield _checked(uri, number, json.dumps(record, default=str), lambda values=values: Row.model_validate(values))  # type: ignore[misc]


def _require(uri: str, columns: list[str]) -> None:
    missing = [name for name in REQUIRED if name not in columns]
    if missing:
        have = ", ".join(columns[:8]) or "none"
        raise ContractError(f"the column `{missing[0]}` is missing (there are: {have})", where=uri, mend="Rename or add it; `input` and `group` are optional.")


def _checked(uri: str, line: int, text: str, parse: Callable[[], Row]) -> Found:
    try:
        return uri, line, parse()
    except ValidationError as error:
        first: Any = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        reason = f"`{field}`: {first['msg']}" if field else f"not a JSON object ({first['msg']})"
        return Rejected(uri, line, reason, text[:2000])


READERS: dict[str, Callable[[str, bytes], Iterator[Found]]] = {"jsonl": _jsonl, "csv": _csv, "parquet": _parquet}
