"""Spans: a request's continues its caller's, an answer's is below it and names MLflow's trace."""

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from serving import tracing

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_continues_its_callers_trace_and_its_answer_names_mlflows(stream, words, monkeypatch, caplog):
    spans, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    monkeypatch.setattr(tracing, "_tracer", provider.get_tracer("test"))
    body = {"messages": [{"role": "user", "content": "count"}], "max_tokens": 3, "stream": stream}
    reply = words.post("/v1/chat/completions", json=body, headers={"traceparent": f"00-{TRACE}-{CALLER}-01", "x-request-id": "mine"})
    answer, request = sorted(spans.get_finished_spans(), key=lambda span: span.kind.name)
    assert {f"{span.context.trace_id:032x}" for span in (request, answer)} == {TRACE}
    assert f"{request.parent.span_id:016x}" == CALLER and answer.parent.span_id == request.context.span_id
    assert dict(request.attributes) == {
        "http.request.method": "POST", "url.path": "/v1/chat/completions", "flywheel.request_id": "mine", "http.response.status_code": 200,
    }  # fmt: skip
    assert answer.attributes["mlflow.trace_id"] == f"tr-{answer.attributes['gen_ai.response.id']}" and answer.attributes["gen_ai.response.id"] in reply.text
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
