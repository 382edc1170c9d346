"""A stack with a tiny model: for all tests of a module, or for one that kills it."""

from __future__ import annotations

import time

import pytest

from flywheel.airflow_api import AirflowApi
from flywheel.settings import port, settings
from flywheel.turn import find
from tests.e2e import stack
from tests.e2e.chaos import SERVICES_KILLED, STAGES_KILLED, WholeStack


@pytest.fixture(scope="module")
def laptop(request, tiny_model):
    """The stack; a module that needs nights says so with FIRST_NIGHT."""
    with stack.tiny(tiny_model, first_night=getattr(request.module, "FIRST_NIGHT", "")) as made:
        yield made


@pytest.fixture(scope="module")
def airflow(laptop):
    """Its Airflow, which has read every DAG."""
    api = AirflowApi()
    for dag in ("flywheel", "feedback", "operate", "rollback", "housekeeping"):
        find(api, dag)
    return api


@pytest.fixture
def run(airflow):
    """Trigger a DAG and wait for the run's end: its state and its id."""

    def ended(dag: str, conf: dict | None = None) -> tuple[str, str]:
        airflow.unpause(dag)
        run_id = airflow.trigger(dag, conf or {})
        until = time.monotonic() + 900
        while (state := airflow.run(dag, run_id)["state"]) not in ("success", "failed"):
            assert time.monotonic() < until, airflow.tasks(dag, run_id)
            time.sleep(1)
        return state, run_id

    return ended


@pytest.fixture
def whole_stack(tiny_model, request):
    failed = request.session.testsfailed
    with stack.tiny(tiny_model) as made:
        ports = {"serving": port(settings().serving_url), "mlflow": port(settings().mlflow_url)}
        world = WholeStack(made.home, ports, made.environment, dict.fromkeys((*SERVICES_KILLED, *STAGES_KILLED)), STAGES_KILLED)
        yield world
        world.over, made.keep = True, request.session.testsfailed > failed
