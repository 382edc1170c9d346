"""A running service over a real engine (a tiny random model), a real ledger and a real registry."""

import time

import pytest
from fastapi.testclient import TestClient

from flywheel.settings import settings
from serving.settings import serving


@pytest.fixture(autouse=True)
def behaviour(monkeypatch):
    """The laptop's behaviour, changed by `behaviour(name=value)`."""
    monkeypatch.setenv("FLYWHEEL_SERVING_AUTH", "off")
    monkeypatch.setenv("FLYWHEEL_SERVING_THREADS", "1")
    monkeypatch.setenv("FLYWHEEL_SERVING_KV_TOKENS", "4096")

    def change(**values):
        for name, value in values.items():
            monkeypatch.setenv(f"FLYWHEEL_SERVING_{name.upper()}", str(value))
        serving.cache_clear()

    serving.cache_clear()
    yield change
    serving.cache_clear()


@pytest.fixture(scope="session")
def converted(tmp_path_factory, tiny_model):
    """The tiny model in the engine's form, converted once for all tests."""
    from serving.engines.convert import openvino_folder

    cache = tmp_path_factory.mktemp("converted")
    openvino_folder(tiny_model, cache)
    return cache / "openvino"


@pytest.fixture
def tiny_home(home, tiny_model, converted, monkeypatch):
    """A home whose config names the tiny model."""
    (home / "cache").mkdir(parents=True)
    (home / "cache" / "openvino").symlink_to(converted)
    (home / "config.yaml").write_text(f"model: {{base: '{tiny_model}'}}\ningest: {{sources: [{{kind: docs, licence: x, consent: y}}]}}")
    monkeypatch.setenv("FLYWHEEL_CONFIG", str(home / "config.yaml"))
    settings.cache_clear()
    return home


def wait_until_ready(client):
    until = time.monotonic() + 180
    while client.get("/readyz").status_code != 200 and time.monotonic() < until:
        time.sleep(0.1)


@pytest.fixture
def api(database, mlflow_server, tiny_home):
    from serving.app import app

    with TestClient(app) as client:
        wait_until_ready(client)
        yield client


@pytest.fixture
def words(database, behaviour):
    """The application with an engine that counts, without what its lifespan starts."""
    from serving.answering import Answerer
    from serving.app import app
    from serving.features import Features
    from serving.limits import Limits
    from serving.pool import Pool
    from tests.serving.processes import Words

    pool = Pool()
    pool.put(Words())
    pool.lead("base")
    app.state.limits, app.state.draining = Limits(), False
    app.state.answerer, app.state.features = Answerer(pool, app.state.limits), Features(pool)
    return TestClient(app)
