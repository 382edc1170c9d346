"""Log lines, for people or for machines: FLYWHEEL_LOG_FORMAT=json gives one JSON object a line, ready for Fluent Bit.

Every object has `time` (UTC), `level`, `logger` and `message`; what `bind` was given (stage and run, or request and path)
rides along on each line of that stage or request, and `error` holds the traceback of an exception.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TextIO

from flywheel.settings import settings

_bound: ContextVar[Mapping[str, str]] = ContextVar("bound", default=MappingProxyType({}))


def bind(**fields: str) -> None:
    """Add these fields to every line that this task or thread logs from here on."""
    _bound.set({**_bound.get(), **fields})


class JsonFormatter(logging.Formatter):
    """A log record as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_bound.get(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def setup(text: str, stream: TextIO | None = None) -> None:
    """Send the root logger's warnings and the flywheel's own information to a stream, as the settings say; `text` is the line for people.

    As JSON, uvicorn's lines go the same way.
    """
    handler = logging.StreamHandler(stream or sys.stderr)
    if settings().log_format == "json":
        handler.setFormatter(JsonFormatter())
        for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
            logger = logging.getLogger(name)
            logger.handlers.clear()
            logger.propagate = True
    else:
        handler.setFormatter(logging.Formatter(text))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("flywheel").setLevel(logging.INFO)
