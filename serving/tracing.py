"""OpenTelemetry spans over OTLP, when OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) names a collector; else they cost nothing.

A request's span continues the caller's `traceparent`; below it each decoded answer's names MLflow's trace of it (`mlflow.trace_id`), where feedback hangs.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

_tracer: Any = None


def setup() -> None:
    """Start exporting, if a collector is named."""
    global _tracer
    if not (os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")):
        return
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "flywheel-serving")}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)
    _tracer = trace.get_tracer("flywheel.serving")


def stop() -> None:
    """Send what is left."""
    if _tracer is not None:
        from opentelemetry import trace

        trace.get_tracer_provider().shutdown()  # type: ignore[attr-defined]


@contextmanager
def request(method: str, path: str, carrier: Mapping[str, str], request_id: str) -> Iterator[Any]:
    """The span of a request, current until the end of the block, below the caller's when `carrier` has a traceparent; None when nobody collects."""
    if _tracer is None:
        yield None
        return
    from opentelemetry import trace
    from opentelemetry.propagate import extract

    attributes = {"http.request.method": method, "url.path": path, "flywheel.request_id": request_id}
    made = _tracer.start_span(f"{method} {path}", extract(carrier), trace.SpanKind.SERVER, attributes)
    with trace.use_span(made, end_on_exit=True):
        yield made


@contextmanager
def decoding(version: str, answer: str) -> Iterator[None]:
    """The span of an answer's decoding. Never the current one: a generator goes on in another task than it began in."""
    if _tracer is None:
        yield
        return
    from opentelemetry.trace import Status, StatusCode

    attributes = {"gen_ai.operation.name": "chat", "gen_ai.response.model": version, "gen_ai.response.id": answer, "mlflow.trace_id": f"tr-{answer}"}
    made = _tracer.start_span("chat", attributes=attributes)
    try:
        yield
    except Exception as error:
        made.record_exception(error)
        made.set_status(Status(StatusCode.ERROR, str(error)))
        raise
    finally:
        made.end()
