"""Loaders: Markdown, HTML, PDF, code and plain text as documents, wherever they lie.

What cannot be read is a `Refused` with its reason, never the end of a build.
"""

from __future__ import annotations

import io
import logging
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from flywheel import store
from flywheel.errors import ContractError

Kind = Literal["markdown", "html", "pdf", "code", "text"]
SUFFIXES: dict[str, Kind] = {"md": "markdown", "markdown": "markdown", "html": "html", "htm": "html", "pdf": "pdf", "py": "code", "txt": "text", "rst": "text"}
MAX_BYTES = 64 << 20
logging.getLogger("pypdf").setLevel(logging.ERROR)  # what it finds broken is told in a sentence here
_NOT_STORABLE = re.compile(r"[\x00\ud800-\udfff]")


@dataclass(frozen=True)
class Document:
    """A text with an address. `tenants` names who may see it; nobody named: everyone. Offsets count characters of `text`."""

    uri: str
    text: str
    kind: Kind = "text"
    title: str = ""
    tenants: tuple[str, ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Refused:
    """A file that is no document, and why."""

    uri: str
    reason: str


def load(path: str, *, tenants: tuple[str, ...] = (), metadata: Mapping[str, Any] | None = None) -> Iterator[Document | Refused]:
    """Every document that a path, a glob or a URL names, by name. Raises ContractError when nothing matches."""
    found = store.glob(path)
    if not found or (found == [path] and not store.exists(path)):
        raise ContractError("no file matches", where=f"index.documents: {path}", mend="Mend the path.")
    for uri in found:
        kind = SUFFIXES.get(uri.rsplit(".", 1)[-1].lower())
        if kind is None:
            if not re.search(r"/[^/.]+$", uri):  # a folder that ** found is nothing to tell of
                yield Refused(uri, f"files of this kind are not read; there are {', '.join(sorted(SUFFIXES))}")
            continue
        try:
            text, title = parse(store.read_bytes(uri), kind)
        except ValueError as error:
            yield Refused(uri, str(error))
            continue
        name = _module(uri) if kind == "code" else uri.rsplit("/", 1)[-1].rsplit(".", 1)[0]
        yield Document(store.relative(uri), text, kind if kind not in ("html", "pdf") else "markdown", title or name, tenants, metadata or {})


def _module(uri: str) -> str:
    """The name under which a Python file is imported."""
    folder, _, file = uri.rpartition("/")
    parts = [] if file == "__init__.py" else [file.removesuffix(".py")]
    while store.exists(store.join(folder, "__init__.py")):
        folder, _, name = folder.rpartition("/")
        parts.insert(0, name)
    return ".".join(parts)


def parse(raw: bytes, kind: Kind) -> tuple[str, str]:
    """(text, title) of a file's bytes; HTML and PDF come out as Markdown. Raises ValueError with the reason when there is no text."""
    if len(raw) > MAX_BYTES:
        raise ValueError(f"it has {len(raw) >> 20} MiB, the most is {MAX_BYTES >> 20}")
    text, title = READERS[kind](raw) if kind in READERS else (raw.decode("utf-8", "replace"), "")
    text = _NOT_STORABLE.sub("\ufffd", text)
    if not text.strip():
        raise ValueError("there is no text in it")
    return text, title.strip()


def _html(raw: bytes) -> tuple[str, str]:
    import trafilatura

    text = trafilatura.extract(raw, output_format="markdown", include_tables=True, favor_recall=True) or ""
    found = trafilatura.extract_metadata(raw)
    return text, (found.title if found else "") or ""


def _pdf(raw: bytes) -> tuple[str, str]:
    import pypdf

    try:
        reader = pypdf.PdfReader(io.BytesIO(raw))
        pages = [page.extract_text() for page in reader.pages]
        title = str(reader.metadata.title or "") if reader.metadata else ""
    except Exception as error:  # a broken PDF breaks pypdf in any of a dozen ways
        raise ValueError(f"the PDF is broken or locked ({type(error).__name__}: {error})") from error
    return "\n\n".join(f"## Page {number}\n\n{page.strip()}" for number, page in enumerate(pages, 1) if page.strip()), title


READERS = {"html": _html, "pdf": _pdf}
