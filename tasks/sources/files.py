"""Files, here or in any object store, or at a web address: which ones a run takes, and how each is opened."""

from __future__ import annotations

import gzip
import hashlib
import logging
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, date, datetime, timedelta
from fnmatch import translate
from functools import cached_property
from typing import IO, ClassVar

from flywheel import store
from flywheel.config import sources as config
from flywheel.errors import ContractError, DataError, TransientError, from_os_error, from_store_error
from tasks.sources import lines
from tasks.sources.base import Raw, Reader, Rejected, rejected
from tasks.sources.http import Client

DATE = "{date}"
CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5")  # what s3fs, gcsfs and adlfs know of a file without reading it
logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it writes tracebacks of what is told in a sentence here


class FilesReader(Reader[config.Files]):
    """One file, or all that a glob finds, in the order of their names."""

    _fetched: ClassVar[dict[str, IO[bytes]]] = {}

    def identity(self) -> str:
        """Of the files' names and checksums; with a `time`, of what it lets through."""
        if self.conf.time:
            return super().identity()
        return store.sha256_text(*(part for uri in self.uris for part in (uri, self._checksum(uri))))

    def raw(self) -> Iterator[Raw | Rejected]:
        """Every record of every file."""
        for uri in self.uris:
            parse = lines.FORMATS[self._format(uri)]
            with self._opened(uri) as file:
                try:
                    yield from parse(file, uri, self.conf)
                except DataError as error:
                    if error.what != lines.EMPTY or len(self.uris) == 1:
                        raise
                    yield rejected(uri, 0, error.what)  # one day without a record is no reason to stop

    @cached_property
    def uris(self) -> list[str]:
        """The files that there were at the interval's end, by name."""
        path = str(store.local_path(self.conf.path)) if store.is_local(self.conf.path) else self.conf.path
        with _reaching(path):
            found = [path] if _is_web(path) else store.glob(path.replace(DATE, "*"))
        if DATE in path:
            dated = [(uri, end) for uri in found if (end := _end_of_day(path, uri))]
            found = [uri for uri, _ in dated]
            if dated and self.until is not None:
                return [uri for uri, end in dated if end <= self.until]
        if not found:
            raise ContractError("no file matches", where=f"ingest.sources: {self.conf.path}", mend="Mend the path.")
        return found

    def _format(self, uri: str) -> str:
        if self.conf.format != "auto":
            return self.conf.format
        suffix = uri.split("?")[0].lower().removesuffix(".gz").rsplit(".", 1)[-1]
        if suffix not in lines.FORMATS:
            raise ContractError(f"files of kind .{suffix} cannot be read", where=uri, mend="Use .jsonl, .csv, .parquet or .txt, or set `format`.")
        return suffix

    @contextmanager
    def _opened(self, uri: str) -> Iterator[IO[bytes]]:
        with _reaching(uri):
            if _is_web(uri):
                file = self._fetched.pop(uri, None) or self._fetch(uri)[0]
                file.seek(0)
            else:
                fs, path = store.filesystem(uri)
                file = fs.open(path, "rb")
            with file:
                zipped = file.read(2) == b"\x1f\x8b"  # not by the name: a web server may have unpacked it on the way
                file.seek(0)
                with gzip.GzipFile(fileobj=file) if zipped else nullcontext(file) as plain:
                    yield plain  # type: ignore[misc]

    def _checksum(self, uri: str) -> str:
        with _reaching(uri):
            if _is_web(uri):
                self._fetched[uri], checksum = self._fetch(uri)
                return checksum
            if store.is_local(uri):
                return store.sha256_file(store.local_path(uri))
            fs, path = store.filesystem(uri)
            fs.invalidate_cache()
            known = fs.info(path)
            return next((str(known[name]) for name in CHECKSUMS if known.get(name)), "") or store.sha256_text(store.read_bytes(uri).hex())

    def _fetch(self, uri: str) -> tuple[IO[bytes], str]:
        """A copy of a file at a web address, and its checksum: such an address says little of what it holds."""
        self.scratch.mkdir(parents=True, exist_ok=True)
        file = tempfile.TemporaryFile(dir=self.scratch)  # noqa: SIM115
        with Client(config.Polite()) as client:
            client.get(uri, into=file)
        file.seek(0)
        return file, hashlib.file_digest(file, "sha256").hexdigest()


def _is_web(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _end_of_day(pattern: str, uri: str) -> datetime | None:
    """When the day in a file's name was over (UTC); None when there is no date where the pattern has one."""
    parts = [translate(part).removeprefix("(?s:").removesuffix(r")\Z") for part in pattern.rsplit("://", 1)[-1].split(DATE)]
    match = re.search("/?" + r"(\d{4}-\d\d-\d\d|\d{8})".join(parts) + r"\Z", uri, re.DOTALL)
    try:
        return datetime.combine(date.fromisoformat(match[1]), datetime.min.time(), UTC) + timedelta(days=1) if match else None
    except ValueError:
        return None


@contextmanager
def _reaching(uri: str) -> Iterator[None]:
    """What a disk or an object store may say, in our words."""
    try:
        yield
    except FileNotFoundError as error:
        raise ContractError("there is no such file", where=f"ingest.sources: {uri}", mend="Mend the path.") from error
    except IsADirectoryError as error:
        raise ContractError("this is a folder", where=f"ingest.sources: {uri}", mend="Name the files in it, e.g. folder/*.jsonl.") from error
    except PermissionError as error:
        raise ContractError("no right to read it", where=f"ingest.sources: {uri}", mend="Give this process that right.") from error
    except Exception as error:
        if isinstance(error, OSError) and store.is_local(uri):
            raise from_os_error(error) from error
        known = from_store_error(error, f"ingest.sources: {uri}")
        if known is None and not isinstance(error, OSError):
            raise
        raise known or TransientError(
            f"the store does not answer ({error})", where=uri, mend="Retry; if it stays, check the address and the network."
        ) from error
