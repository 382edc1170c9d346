"""Web pages: the main text of each (trafilatura), where robots.txt lets us (protego)."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

from protego import Protego

from flywheel.config import sources as config
from flywheel.errors import ContractError, DataError
from tasks.sources.base import Raw, Reader, Rejected, rejected
from tasks.sources.http import Client

logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # what it says of a page is said in quarantine


class Forbidden(Exception):
    """robots.txt says no."""


class WebReader(Reader[config.Web]):
    """A page that is gone, forbidden or without text is rejected; the others go on."""

    def raw(self) -> Iterator[Raw | Rejected]:
        """The pages in the config's order."""
        self._robots: dict[str, Protego] = {}
        with Client(self.conf, agent=self.conf.agent) as client:
            for url in self.conf.urls:
                body = io.BytesIO()
                try:
                    client.get(url, into=body, permit=lambda hop: self._permit(client, hop))
                except Forbidden:
                    yield rejected(url, 0, "robots.txt forbids it")
                except (ContractError, DataError) as error:
                    yield rejected(url, 0, error.what)
                else:
                    yield from self._records(url, body.getvalue())

    def _permit(self, client: Client, url: str) -> None:
        """Ask the host's robots.txt. Raises Forbidden."""
        parts = urlsplit(url)
        host = urlunsplit((parts.scheme, parts.netloc, "", "", ""))
        if host not in self._robots:
            body = io.BytesIO()
            try:
                client.get(f"{host}/robots.txt", into=body)
                rules = body.getvalue().decode("utf-8", "replace")
            except (ContractError, DataError):
                rules = ""  # a host without rules has none (RFC 9309); one that is down is a TransientError
            self._robots[host] = Protego.parse(rules)
        robots = self._robots[host]
        if not robots.can_fetch(url, self.conf.agent):
            raise Forbidden
        client.seconds_between = max(1 / self.conf.per_second, robots.crawl_delay(self.conf.agent) or 0.0)

    def _records(self, url: str, page: bytes) -> Iterator[Raw | Rejected]:
        import trafilatura

        found = trafilatura.bare_extraction(page, url=url, with_metadata=True, include_comments=False)
        paragraphs = [line.strip() for line in (getattr(found, "text", None) or "").split("\n") if line.strip()]
        if not paragraphs:
            yield rejected(url, 0, "the page has no text", page)
            return
        title = str(getattr(found, "title", None) or url)
        texts = paragraphs if self.conf.each == "paragraph" else ["\n\n".join(paragraphs)]
        for number, text in enumerate(texts, 1):
            question = self.conf.question.format(title=title, address=url, number=number)
            yield url, number, {"instruction": question, "output": text, "group": url, "date": getattr(found, "date", None)}
