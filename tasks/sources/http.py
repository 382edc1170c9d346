"""A JSON API, page by page, and the client that everything here asks the web with."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from string import Template
from types import TracebackType
from typing import IO, Any
from urllib.parse import urljoin, urlsplit

import httpx
from pydantic_core import from_json
from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, wait_exponential

from flywheel.config import sources as config
from flywheel.errors import ContractError, DataError, TransientError
from tasks.sources import forms
from tasks.sources.base import Raw, Reader, Rejected, rejected

HOPS = 10
MOST_BYTES = 64 << 20  # of a reply that is held in memory
LONGEST_WAIT = 120.0

_tls = cache(httpx.create_ssl_context)  # which takes a tenth of a second


class _Again(TransientError):
    """A reply that waiting may change."""

    after = 0.0


class Client:
    """GET with a rate limit, retries of what waiting may cure, and secrets only for the host they are meant for."""

    def __init__(self, conf: config.Polite, *, agent: str = "flywheel") -> None:
        self.conf, self.seconds_between, self._next = conf, 1 / conf.per_second, 0.0
        self._headers = filled(conf.headers)
        self._http = httpx.Client(timeout=conf.timeout_seconds, headers={"user-agent": agent}, verify=_tls())

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._http.close()

    def get(self, url: str, parameters: dict[str, str] | None = None, *, into: IO[bytes], permit: Callable[[str], None] | None = None) -> httpx.Response:
        """Ask for a page and write its body into a file; `permit` is asked before each address, and may raise.

        Raises ContractError when we are not let in, DataError when there is nothing to be had, TransientError when the server stays busy or away.
        """
        again = Retrying(stop=stop_after_attempt(self.conf.attempts), wait=self._wait, retry=retry_if_exception_type(_Again), reraise=True, sleep=time.sleep)
        return again(self._once, url, parameters, into, permit)

    def _wait(self, state: RetryCallState) -> float:
        error = state.outcome.exception() if state.outcome else None
        return max(getattr(error, "after", 0.0), wait_exponential(multiplier=self.conf.backoff_seconds, max=LONGEST_WAIT)(state))

    def _once(self, start: str, parameters: dict[str, str] | None, into: IO[bytes], permit: Callable[[str], None] | None) -> httpx.Response:
        into.seek(0)
        into.truncate()
        try:
            url = httpx.URL(start)
            url = url.copy_merge_params(parameters) if parameters else url
            for _ in range(HOPS):
                if permit:
                    permit(str(url))
                self._be_patient()
                headers = self._headers if url.netloc == httpx.URL(start).netloc else {}
                with self._http.stream("GET", url, headers=headers) as reply:
                    if reply.next_request is None:
                        _check(reply, start)
                        for chunk in reply.iter_bytes():
                            into.write(chunk)
                            if isinstance(into, io.BytesIO) and into.tell() > MOST_BYTES:
                                raise DataError(f"the reply is longer than {MOST_BYTES} bytes", where=start, mend="Ask for smaller pages.")
                        return reply
                    url = reply.next_request.url
        except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise ContractError(f"this is no address ({error})", where=start, mend="Mend it: http://… or https://…") from error
        except httpx.DecodingError as error:
            raise DataError(f"the reply is damaged ({error})", where=start, mend="Ask who runs the server.") from error
        except httpx.TransportError as error:
            raise _Again(f"the server cannot be reached ({error})", where=start, mend="Retry; if it stays, check the address and the network.") from error
        raise DataError(f"it redirects without end (more than {HOPS} times)", where=start, mend="Mend the address.")

    def _be_patient(self) -> None:
        now = time.monotonic()
        time.sleep(max(0.0, self._next - now))
        self._next = max(self._next, now) + self.seconds_between


def _check(reply: httpx.Response, where: str) -> None:
    """Raise what a status other than success means."""
    status = f"the server answers {reply.status_code} {reply.reason_phrase}"
    if reply.status_code == 429 or reply.status_code >= 500:
        error = _Again(status, where=where, mend="Retry later, or ask less often (`per_second`).")
        after = reply.headers.get("retry-after", "")
        error.after = min(float(after), LONGEST_WAIT) if after.isdecimal() else 0.0
        raise error
    if reply.status_code in (401, 403):
        raise ContractError(status, where=where, mend="Check the secret in `headers`, and the right to read this.")
    if not reply.is_success:
        raise DataError(status, where=where, mend="Mend the address, or ask who runs the server.")


def filled(given: dict[str, str]) -> dict[str, str]:
    """Values with the environment's in place of ${NAME}."""
    try:
        return {name: Template(value).substitute(os.environ) for name, value in given.items()}
    except (KeyError, ValueError) as error:
        raise ContractError(
            f"the environment variable {error} is not set", where="ingest.sources", mend="Set it; secrets are never written into YAML."
        ) from error


class HttpReader(Reader[config.Http]):
    """Records of a JSON API."""

    def raw(self) -> Iterator[Raw | Rejected]:
        """The records of every page, numbered through."""
        number = 0
        for page in self._pages():
            for record in page:
                number += 1
                yield (self.conf.address, number, record) if isinstance(record, dict) else rejected(self.conf.address, number, "not a JSON object", str(record))

    def _pages(self) -> Iterator[list[Any]]:
        conf, paging = self.conf, self.conf.paging
        moment = (self.until or datetime.now(UTC)).isoformat()
        url = conf.url.replace("{interval_end}", moment)
        asked = {name: value.replace("{interval_end}", moment) for name, value in filled(conf.parameters).items()}
        page_number, seen = paging.first if isinstance(paging, config.Pages) else 0, {url}
        before: Any = None
        with Client(conf) as client:
            while True:
                if isinstance(paging, config.Pages):
                    asked[paging.parameter] = str(page_number)
                body = io.BytesIO()
                reply = client.get(url, asked, into=body)
                content = self._json(reply, body.getvalue())
                page = forms.at(content, conf.records) if conf.records else content
                if not isinstance(page, list):
                    raise DataError("there is no list of records in the reply", where=conf.address, mend="Say where it is under `records`, e.g. data.items.")
                if page and isinstance(paging, config.Pages) and page == before:
                    raise DataError(f"page {page_number} is the same as the one before", where=conf.address, mend="Mend `paging.parameter`.")
                yield page
                if paging is None or (isinstance(paging, config.Pages) and not page):
                    return
                page_number, before = page_number + 1, page
                if isinstance(paging, config.Cursor | config.Link):
                    follow = self._next(paging, content, reply)
                    if follow is None:
                        return
                    if follow in seen:
                        raise DataError("the pages go in a circle", where=conf.address, mend="Mend `paging`, or ask who runs the server.")
                    seen.add(follow)
                    if isinstance(paging, config.Cursor):
                        asked[paging.parameter] = follow
                    else:
                        url, asked = follow, {}

    def _json(self, reply: httpx.Response, body: bytes) -> Any:
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            kind = reply.headers.get("content-type", "an unknown type")
            what = "HTML" if body[:512].lstrip().lower().startswith((b"<!doctype", b"<html")) else kind
            raise DataError(f"the reply is not JSON but {what} ({error})", where=self.conf.address, mend="Mend the address; a login page, perhaps?") from error

    def _next(self, paging: config.Cursor | config.Link, content: Any, reply: httpx.Response) -> str | None:
        """The next page's key or address; None at the end."""
        found = forms.at(content, paging.at) if paging.at else reply.links.get("next", {}).get("url")
        if found in (None, "", False):
            return None
        if isinstance(paging, config.Cursor):
            return str(found)
        url = urljoin(str(reply.url), str(found))
        if urlsplit(url).netloc != urlsplit(self.conf.url).netloc:
            raise DataError(f"the next page is on another host ({urlsplit(url).netloc})", where=self.conf.address, mend="Ask who runs the server.")
        return url
