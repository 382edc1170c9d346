"""Where records come from: one small class a kind of source, behind one interface. `docs/sources.md` shows each.

A new source is one class here (a `Reader`), its line in `KINDS`, and one config class in `flywheel/config/sources.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from flywheel.config import sources as config
from tasks.sources.base import Found, Reader, Rejected, moment
from tasks.sources.docstrings import DocsReader
from tasks.sources.files import FilesReader
from tasks.sources.forms import Row
from tasks.sources.grounded import GroundedReader
from tasks.sources.http import HttpReader
from tasks.sources.hub import HubReader
from tasks.sources.sql import SqlReader
from tasks.sources.web import WebReader

__all__ = ["Found", "Reader", "Rejected", "Row", "docs", "moment", "reader"]

KINDS: dict[str, type[Reader[Any]]] = {
    "grounded": GroundedReader,
    "docs": DocsReader,
    "files": FilesReader,
    "http": HttpReader,
    "web": WebReader,
    "sql": SqlReader,
    "hub": HubReader,
}


def reader(source: config.Source, until: datetime | None = None, scratch: Path | None = None) -> Reader[Any]:
    """What reads a source, as it was at a moment (None: as it is). `scratch` is a folder for temporary files."""
    return KINDS[source.kind](source, until, scratch)


def docs() -> Iterator[Found]:
    """The built-in source: the standard library's own docstrings as questions and answers (PSF licence)."""
    return reader(config.Docs(kind="docs", licence="PSF-2.0", consent="published documentation")).read()
