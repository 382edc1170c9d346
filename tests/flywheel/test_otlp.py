"""What is sent over OTLP is added up and shown."""

import time

import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from prometheus_client import CollectorRegistry, generate_latest

from flywheel import otlp
from flywheel.errors import ContractError

DELTA, CUMULATIVE = 1, 2


def request(name, kind, value, temporality=DELTA, **attributes):
    made = ExportMetricsServiceRequest()
    metric = made.resource_metrics.add().scope_metrics.add().metrics.add(name=name)
    if kind == "gauge":
        point = metric.gauge.data_points.add(as_double=value)
    elif kind == "timer":
        metric.exponential_histogram.aggregation_temporality = temporality
        point = metric.exponential_histogram.data_points.add(count=1, sum=value)
    else:
        metric.sum.is_monotonic, metric.sum.aggregation_temporality = True, temporality
        point = metric.sum.data_points.add(as_int=value)
    for key, text in attributes.items():
        point.attributes.add(key=key).value.string_value = text
    return made.SerializeToString()


def shown(received):
    registry = CollectorRegistry()
    registry.register(received)
    return generate_latest(registry).decode()


def test_counts_of_short_lived_processes_are_added_by_their_labels():
    received = otlp.Received()
    for state in ("success", "failed", "success"):
        received.add(request("airflow.ti.finish", "count", 1, task_id="train", state=state))
    text = shown(received)
    assert 'airflow_ti_finish_total{state="success",task_id="train"} 2.0' in text
    assert 'airflow_ti_finish_total{state="failed",task_id="train"} 1.0' in text


def test_a_timer_is_a_count_and_a_sum_and_a_missing_label_is_empty():
    received = otlp.Received()
    received.add(request("airflow.dagrun.duration", "timer", 2.5, dag_id="flywheel"))
    received.add(request("airflow.dagrun.duration", "timer", 1.5, dag_id="flywheel"))
    received.add(request("airflow.dagrun.duration", "timer", 9))
    text = shown(received)
    assert 'airflow_dagrun_duration_count{dag_id="flywheel"} 2.0' in text and 'airflow_dagrun_duration_sum{dag_id="flywheel"} 4.0' in text
    assert 'airflow_dagrun_duration_sum{dag_id=""} 9.0' in text


def test_a_gauge_is_its_last_value_until_nobody_sends_it_any_more(monkeypatch):
    received = otlp.Received()
    received.add(request("airflow.ti.running", "gauge", 2))
    received.add(request("airflow.ti.running", "gauge", 1))
    assert "airflow_ti_running 1.0" in shown(received)
    later = time.monotonic() + otlp.STALE_SECONDS + 1
    monkeypatch.setattr(time, "monotonic", lambda: later)
    assert "airflow_ti_running 1.0" not in shown(received)


def test_what_cannot_be_added_is_refused_in_a_sentence(monkeypatch):
    received = otlp.Received()
    with pytest.raises(ContractError, match="no OTLP"):
        received.add(b"\xff\xff\xff")
    with pytest.raises(ContractError, match="delta"):
        received.add(request("airflow.ti.finish", "count", 1, CUMULATIVE))
    monkeypatch.setattr(otlp, "MAX_SERIES", 1)
    received.add(request("a", "count", 1, run="1"))
    received.add(request("a", "count", 1, run="1"))
    with pytest.raises(ContractError, match="more than 1 series"):
        received.add(request("a", "count", 1, run="2"))
    assert 'a_total{run="1"} 2.0' in shown(received)
