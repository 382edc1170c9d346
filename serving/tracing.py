"""OpenTelemetry spans over OTLP, when OTEL_EXPORTER_OTLP_ENDPOINT (or ..._TRACES_ENDPOINT) names a collector; else they cost nothing.

A request's span continues the caller's `traceparent`; the span of an answer names MLflow's trace of it (`mlflow.trace_id`), where feedback hangs.
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
def span(name: str, carrier: Mapping[str, str] | None = None, **attributes: str) -> Iterator[Any]:
    """A span until the end of the block, below the caller's when `carrier` has a traceparent."""
    if _tracer is None:
        yield None
        return
    from opentelemetry.propagate import extract

    if "answer" in attributes:
        attributes = {**attributes, "mlflow.trace_id": f"tr-{attributes['answer']}"}
    with _tracer.start_as_current_span(name, context=extract(carrier) if carrier else None, attributes={f"{k}": v for k, v in attributes.items()}) as made:
        yield made
