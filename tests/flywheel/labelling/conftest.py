"""One real Label Studio for all tests of this room."""

import secrets
import uuid

import pytest

from flywheel.settings import settings
from tests.conftest import free_port
from tests.labelling import People, label_studio


@pytest.fixture(scope="session")
def studio_server():
    token = secrets.token_hex(20)
    with label_studio(f"http://127.0.0.1:{free_port()}", token) as url:
        yield url, token


@pytest.fixture
def people(studio_server, database, monkeypatch):
    """An empty ledger, and a title of our own on the server."""
    url, token = studio_server
    monkeypatch.setenv("FLYWHEEL_LABEL_STUDIO_URL", url)
    monkeypatch.setenv("FLYWHEEL_LABEL_STUDIO_TOKEN", token)
    settings.cache_clear()
    return People(url, token)


@pytest.fixture
def title():
    return f"review {uuid.uuid4().hex[:8]}"
