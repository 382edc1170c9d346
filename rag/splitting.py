"""Split a document where its author did: at headings, definitions and paragraphs. Each passage knows where it stood.

Sections come first (a heading's text, a function or class); only what is longer than a passage may be is split further, at the
largest break that fits. Words are never cut unless one is longer than a passage.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from flywheel.store import sha256_text
from rag.documents import Document, Kind

_HEADING = re.compile(r"^(#{1,6})[ \t]+(.+?)[ \t#]*$")
_FENCE = re.compile(r"^\s*(```|~~~)")


@dataclass(frozen=True)
class Passage:
    """What is indexed and shown: `text` is the document's text from `start` to `end`, in characters; `title` says where in it that is."""

    document: Document
    start: int
    end: int
    title: str

    @property
    def text(self) -> str:
        """The passage itself."""
        return self.document.text[self.start : self.end]

    @property
    def sha256(self) -> str:
        """Of what is embedded: the same title and text need no second embedding."""
        return sha256_text(self.title, self.text)

    @property
    def id(self) -> str:
        """128 bits over everything a search can see of it: what changed is another passage."""
        metadata = repr(sorted(self.document.metadata.items()))
        return sha256_text(self.document.uri, str(self.start), self.title, self.text, metadata, *sorted(self.document.tenants))[:32]


def split(document: Document, characters: int = 1000, overlap: int = 0) -> Iterator[Passage]:
    """The passages of a document, in order, none without a word. `overlap` is of neighbours within one section, in characters."""
    for start, end, title in _sections(document):
        for first, last in _pieces(document.text[start:end], document.kind, characters, overlap):
            if any(c.isalnum() for c in document.text[start + first : start + last]):
                yield Passage(document, start + first, start + last, title)


def _sections(document: Document) -> list[tuple[int, int, str]]:
    """(start, end, title): the title has the document's and the headings above, or the qualified name."""
    if document.kind == "markdown":
        return _markdown(document.text, document.title)
    if document.kind == "code":
        return _python(document.text, document.title)
    return [(0, len(document.text), document.title)]


def _markdown(text: str, title: str) -> list[tuple[int, int, str]]:
    found, path, begin, offset, fenced = [], [(0, title)], 0, 0, False
    for line in text.splitlines(keepends=True):
        fenced ^= bool(_FENCE.match(line))
        heading = None if fenced else _HEADING.match(line.rstrip("\r\n"))
        if heading:
            found.append((begin, offset, _path(path)))
            level = len(heading[1])
            path = [entry for entry in path if entry[0] < level] + [(level, heading[2])]
            begin = offset
        offset += len(line)
    return [*found, (begin, len(text), _path(path))]


def _path(path: list[tuple[int, str]]) -> str:
    return " › ".join(dict.fromkeys(name for _, name in path if name))


def _python(text: str, title: str) -> list[tuple[int, int, str]]:
    """One section a definition, its docstring and body with it; what stands between them belongs to the module or class."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return [(0, len(text), title)]
    lines = [0]
    for line in text.split("\n"):  # as the parser counts them: a form feed ends none
        lines.append(min(lines[-1] + len(line) + 1, len(text)))
    cuts = {0: title}

    def walk(body: list[ast.stmt], prefix: str) -> None:
        for node in body:
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                first = min([node.lineno, *(d.lineno for d in node.decorator_list)]) - 1
                name = f"{prefix}.{node.name}" if prefix else node.name
                cuts[lines[first]] = name
                cuts.setdefault(lines[min(node.end_lineno or first, len(lines) - 1)], prefix)
                if isinstance(node, ast.ClassDef):
                    walk(node.body, name)

    walk(tree.body, title)
    starts = sorted(cuts)
    return [(start, end, cuts[start]) for start, end in zip(starts, [*starts[1:], len(text)], strict=True)]


@lru_cache(maxsize=8)
def _splitter(kind: Kind, characters: int, overlap: int) -> Any:
    from langchain_text_splitters import Language, RecursiveCharacterTextSplitter

    options: dict[str, Any] = {"chunk_size": characters, "chunk_overlap": overlap, "add_start_index": True}
    if kind == "code":
        return RecursiveCharacterTextSplitter.from_language(Language.PYTHON, **options)
    return RecursiveCharacterTextSplitter(separators=["\n\n", "\n", ". ", " ", ""], keep_separator="end", **options)


def _pieces(text: str, kind: Kind, characters: int, overlap: int) -> Iterator[tuple[int, int]]:
    """(start, end) within a section, without the white space around."""
    if len(text) <= characters:
        stripped = text.strip()
        start = text.find(stripped)
        yield start, start + len(stripped)
        return
    for piece in _splitter(kind, characters, overlap).create_documents([text]):
        start = piece.metadata["start_index"]
        yield start, start + len(piece.page_content)
