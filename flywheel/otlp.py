"""Take OpenTelemetry metrics over HTTP and show them to Prometheus: how Airflow's figures arrive on the laptop.

A task's process lives for seconds and cannot be scraped. It sends what it has counted since it last did (OTLP, delta
temporality), and that is added up here. A gauge that nobody has sent for five minutes is dropped.
On a cluster an OpenTelemetry Collector does the same.
"""

from __future__ import annotations

import re
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.metrics.v1.metrics_pb2 import AGGREGATION_TEMPORALITY_DELTA, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.registry import Collector

from flywheel.errors import ContractError

STALE_SECONDS = 300.0
MAX_SERIES = 5000  # a client that makes a label of every run must not fill this process's memory

Labels = tuple[tuple[str, str], ...]


class Received(Collector):
    """Everything that was sent, by name and attributes: counts, (count, sum) of timers, and (value, when) of gauges."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, dict[Labels, float]] = defaultdict(dict)
        self._timers: dict[str, dict[Labels, tuple[int, float]]] = defaultdict(dict)
        self._gauges: dict[str, dict[Labels, tuple[float, float]]] = defaultdict(dict)

    def add(self, body: bytes) -> None:
        """One ExportMetricsServiceRequest, in protobuf. Raises ContractError when it is something else, or too much."""
        request = ExportMetricsServiceRequest()
        try:
            request.ParseFromString(body)
        except DecodeError as error:
            raise ContractError(
                "this is no OTLP metrics request", where="/v1/metrics", mend="Send protobuf: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf."
            ) from error
        with self._lock:
            for metric in (m for resource in request.resource_metrics for scope in resource.scope_metrics for m in scope.metrics):
                self._take(re.sub(r"[^a-zA-Z0-9_]", "_", metric.name), metric)

    def _take(self, name: str, metric: Metric) -> None:
        kind = metric.WhichOneof("data")
        data: Any = getattr(metric, kind) if kind else None
        if kind == "sum" and data.is_monotonic and data.aggregation_temporality != AGGREGATION_TEMPORALITY_DELTA:
            mend = "Set OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=delta."
            raise ContractError(f"{name} is cumulative: the sums of short-lived processes cannot be added", where="/v1/metrics", mend=mend)
        for point in data.data_points if kind else ():
            labels = tuple(sorted((re.sub(r"[^a-zA-Z0-9_]", "_", a.key), _text(a.value)) for a in point.attributes))
            if kind in ("histogram", "exponential_histogram"):
                self._make_room(self._timers[name], labels)
                count, total = self._timers[name].get(labels, (0, 0.0))
                self._timers[name][labels] = (count + point.count, total + point.sum)
            elif kind == "sum" and data.is_monotonic:
                self._make_room(self._counts[name], labels)
                self._counts[name][labels] = self._counts[name].get(labels, 0.0) + _number(point)
            elif kind in ("gauge", "sum"):
                self._make_room(self._gauges[name], labels)
                self._gauges[name][labels] = (_number(point), time.monotonic())

    def _make_room(self, known: Mapping[Labels, object], labels: Labels) -> None:
        if labels not in known and sum(len(d) for kind in (self._counts, self._timers, self._gauges) for d in kind.values()) >= MAX_SERIES:
            raise ContractError(f"more than {MAX_SERIES} series", where="/v1/metrics", mend="Narrow AIRFLOW__METRICS__METRICS_ALLOW_LIST.")

    def collect(self) -> Iterator[Family]:
        """The families that Prometheus reads."""
        with self._lock:
            oldest = time.monotonic() - STALE_SECONDS
            for name, counts in self._counts.items():
                yield _filled(CounterMetricFamily, name, counts)
            for name, timers in self._timers.items():
                yield _filled(SummaryMetricFamily, name, timers)
            for name, gauges in self._gauges.items():
                for labels in [labels for labels, (_, at) in gauges.items() if at < oldest]:
                    del gauges[labels]
                yield _filled(GaugeMetricFamily, name, {labels: value for labels, (value, _) in gauges.items()})


def _text(value: Any) -> str:
    kind = value.WhichOneof("value")
    return str(getattr(value, kind)) if kind else ""


def _number(point: Any) -> float:
    return float(point.as_int if point.WhichOneof("value") == "as_int" else point.as_double)


def _filled(family: Any, name: str, found: Mapping[Labels, Any]) -> Any:
    """One family; a label that some of its series lack is empty there."""
    keys = sorted({key for labels in found for key, _ in labels})
    filled = family(name, "Sent over OTLP", labels=keys)
    for labels, value in found.items():
        known = dict(labels)
        filled.add_metric([known.get(key, "") for key in keys], *(value if isinstance(value, tuple) else (value,)))
    return filled
