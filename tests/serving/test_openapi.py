"""Schemathesis asks every operation of the running service what its OpenAPI document allows, and what it does not: no 5xx, no breach of it."""

import threading
import time

import httpx
import pytest
import schemathesis
import uvicorn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance, status_code_conformance

from tests.conftest import free_port

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]


@pytest.fixture
def address(database, mlflow_server, tiny_home):
    """The service on a port of its own."""
    from serving.app import app

    port = free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    url = f"http://127.0.0.1:{port}"
    until = time.monotonic() + 180
    while time.monotonic() < until:
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                break
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    yield url
    server.should_exit = True
    thread.join()


def test_what_the_document_says_holds(address):
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    failed = []
    for operation in schema.get_all_operations():
        api = operation.ok()
        modes = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]
        strategy = st.one_of(*(api.as_strategy(generation_mode=mode) for mode in modes))

        @settings(max_examples=12, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
        @given(case=strategy)
        def ask(case):
            case.call_and_validate(checks=CHECKS, timeout=60)

        try:
            ask()
        except Exception as error:  # all operations are asked, then all is told
            failed.append(f"{api.label}: {str(error)[:600]}")
    assert not failed, "\n\n".join(failed)
