"""Show the flywheel's own figures (`flywheel.figures`) and Airflow's (`flywheel.otlp`) to Prometheus.

    python -m flywheel.exporter          /metrics, and OTLP metrics on POST /v1/metrics, at FLYWHEEL_EXPORTER_URL

Each source is read when Prometheus asks and what is known is too old. One that fails or takes too long is
`flywheel_exporter_up{source="…"} 0`; the others go on.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from flywheel import figures, logs, otlp
from flywheel.errors import ContractError, FlywheelError
from flywheel.figures import Families, Read, figure
from flywheel.settings import settings

log = logging.getLogger("flywheel.exporter")
PATIENCE_SECONDS = 5.0  # Prometheus gives a scrape ten


class Source:
    """One source and what it said last."""

    def __init__(self, name: str, read: Read, seconds: float) -> None:
        self.name, self._read, self._seconds = name, read, seconds
        self.families: Families | None = None
        self.complaint, self._until = "", 0.0

    def refresh(self) -> None:
        """Read it, when that is due. Whatever goes wrong is told once, and is not this process's end."""
        if time.monotonic() < self._until:
            return
        try:
            self.families, self.complaint = self._read(), ""
        except Exception as error:  # each source fails in its own ways, and the others must be heard
            sentence = error.sentence if isinstance(error, FlywheelError) else f"{type(error).__name__}: {error}"
            if sentence != self.complaint:
                log.error("%s: %s", self.name, sentence)
            self.families, self.complaint = None, sentence
        self._until = time.monotonic() + self._seconds


class Sources(Collector):
    """Every source, read beside each other, none for longer than the patience of a scrape."""

    def __init__(self, sources: Mapping[str, tuple[Read, float]]) -> None:
        self._sources = [Source(name, *rest) for name, rest in sources.items()]
        self._pool = ThreadPoolExecutor(len(self._sources), "source")
        self._pending: dict[str, Future[None]] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """What the sources say, and which of them do."""
        for source in self._sources:
            if source.name not in self._pending or self._pending[source.name].done():
                self._pending[source.name] = self._pool.submit(source.refresh)
        wait(self._pending.values(), timeout=PATIENCE_SECONDS)
        said = {s.name: s.families if self._pending[s.name].done() else None for s in self._sources}
        yield figure("exporter_up", "Whether a source could be read", {name: float(families is not None) for name, families in said.items()}, "source")
        for families in said.values():
            yield from families or ()

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Nothing beforehand: registering must not read the sources."""
        return ()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """No line for each scrape."""


def application(sources: Mapping[str, tuple[Read, float]]) -> Callable[..., Iterable[bytes]]:
    """The WSGI application: GET /metrics and /healthz, POST /v1/metrics."""
    received, shown = otlp.Received(), CollectorRegistry()
    for collector in (Sources(sources), received):
        shown.register(collector)
    ProcessCollector(registry=shown)
    PlatformCollector(registry=shown)
    metrics = make_wsgi_app(shown)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] == "POST" and environ["PATH_INFO"] == "/v1/metrics":
            try:
                received.add(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))
            except ContractError as error:
                start_response("400 Bad Request", [("content-type", "text/plain; charset=utf-8")])
                return [f"{error.sentence}\n".encode()]
            start_response("200 OK", [("content-type", "application/x-protobuf")])
            return [b""]
        if environ["PATH_INFO"] == "/healthz":
            start_response("200 OK", [("content-type", "text/plain")])
            return [b"ok\n"]
        found: Iterable[bytes] = metrics(environ, start_response)
        return found

    return answer


def main() -> None:
    """Serve until stopped."""
    logs.setup("%(asctime)s %(message)s")
    address = urlsplit(settings().exporter_url)
    with make_server(address.hostname or "127.0.0.1", address.port or 9100, application(figures.SOURCES), _Server, _Quiet) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
