"""What every kind of source is: something that yields raw records, of which `read` makes rows.

A kind implements `raw`. One whose content is known without reading it (files: by checksum) also says its `identity`;
any other is read once for it, into a copy that `read` then uses.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from pydantic import TypeAdapter
from pydantic_core import to_json

from flywheel.config import sources as config
from flywheel.errors import ContractError
from flywheel.settings import settings
from tasks.sources import forms
from tasks.sources.forms import Row
from tasks.sources.sorting import Sorter

QUOTED = 2000  # characters of a bad record that quarantine keeps


@dataclass(frozen=True)
class Rejected:
    """A line that is no record: where it stood, why, and the line itself."""

    source: str
    line: int
    reason: str
    text: str


Raw = tuple[str, int, dict[str, Any]]
Found = tuple[str, int, Row] | Rejected
C = TypeVar("C", bound=config.Origin)


def rejected(source: str, line: int, reason: str, text: str | bytes = "") -> Rejected:
    """A rejection whose text is cut, and can be written whatever bytes it holds."""
    if isinstance(text, bytes):
        text = text[: 4 * QUOTED].decode("utf-8", "replace")
    return Rejected(source, line, reason.encode("utf-8", "replace").decode(), text[:QUOTED].encode("utf-8", "replace").decode())


def moment(text: str) -> datetime:
    """An ISO time with its zone; UTC when it names none."""
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError as error:
        raise ContractError(f"{text} is not an ISO time", where="ingest.interval_end", mend="Write it as 2026-01-31T02:00:00+00:00.") from error
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


class Reader(ABC, Generic[C]):
    """One source of one run. `until` is the interval's end; None: everything. `later` counts what was left for a later run."""

    _copies: ClassVar[dict[str, tuple[Sorter, int]]] = {}

    def __init__(self, conf: C, until: datetime | None = None, scratch: Path | None = None) -> None:
        self.conf, self.until, self.later = conf, until, 0
        self.scratch = scratch or settings().home / "cache" / "sources"

    @abstractmethod
    def raw(self) -> Iterator[Raw | Rejected]:
        """Every record as (file or address, number from 1, fields), or what was wrong with it.

        Raises DataError when the source is broken, ContractError when it is not there, TransientError when waiting may help.
        """

    def identity(self) -> str:
        """A hash that changes when, and only when, what the source yields changes."""
        copy = Sorter(self.scratch)
        for found in self._judged():
            # Where a good record stood is not part of what it says: a server may deliver in any order.
            copy.add(to_json(("", 0, found[2]) if isinstance(found, tuple) else found) + b"\n")
        self._copies[self._key] = copy, self.later
        digest = hashlib.sha256()
        for line in copy:
            digest.update(line)
        return digest.hexdigest()

    def read(self) -> Iterator[Found]:
        """Every record as (file or address, number from 1, row), or rejected."""
        copy, self.later = self._copies.pop(self._key, (None, 0))
        return self._judged() if copy is None else map(_KEPT.validate_json, copy)

    @cached_property
    def _key(self) -> str:
        return f"{self.conf.model_dump_json()} {self.until}"

    def _judged(self) -> Iterator[Found]:
        conf, until = self.conf, self.until
        for raw in self.raw():
            if isinstance(raw, Rejected):
                yield raw
                continue
            where, line, fields = raw
            try:
                if conf.time and until is not None and forms.time(fields, conf.time) > until:
                    self.later += 1
                else:
                    yield where, line, forms.row(forms.mapped(fields, conf.columns) if conf.columns else fields)
            except ValueError as error:
                yield rejected(where, line, forms.reason(error), json.dumps(fields, default=str, ensure_ascii=False))


_KEPT: TypeAdapter[Found] = TypeAdapter(tuple[str, int, Row] | Rejected)
