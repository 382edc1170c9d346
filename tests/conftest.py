"""Each test has a home and a store of its own; those that need PostgreSQL share one real server, a database each."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psycopg
import pytest
import sqlalchemy as sa

from flywheel.settings import settings
from tests import tiny


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty FLYWHEEL_HOME."""
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path / "home"))
    settings.cache_clear()
    yield tmp_path / "home"
    settings.cache_clear()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="session")
def postgres_server():
    """A real PostgreSQL, the one the laptop stack runs. Not below pytest's folder: another session locks its user out of there."""
    from flywheel.laptop import postgres

    folder = Path(tempfile.mkdtemp(prefix="flywheel-test-"))
    data = folder / "data"
    postgres.initialise(data)
    port = free_port()
    process = subprocess.Popen(
        postgres.command(data, port), cwd="/", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=dict(os.environ), **postgres.as_user()
    )
    url = sa.make_url(f"postgresql+psycopg://flywheel@127.0.0.1:{port}/postgres")
    for _ in range(300):
        try:
            postgres.connect(url, "postgres").close()
            break
        except psycopg.OperationalError:
            time.sleep(0.1)
    yield url
    process.send_signal(signal.SIGINT)  # SIGTERM would wait for the tests' pooled connections
    process.wait()
    shutil.rmtree(folder)


@contextmanager
def empty_database(server: sa.URL) -> Iterator[str]:
    """Its address; dropped at the end, for a run of all tests makes hundreds, of 8 MB and more each."""
    from flywheel.laptop import postgres

    name = f"test_{uuid.uuid4().hex[:12]}"
    with postgres.connect(server, "postgres") as db:
        db.execute(f"create database {name}")
    try:
        yield server.set(database=name).render_as_string(hide_password=False)
    finally:
        with postgres.connect(server, "postgres") as db:
            db.execute(f"drop database if exists {name} with (force)")


@pytest.fixture
def database(postgres_server, home, monkeypatch):
    """An empty database of our own on it."""
    with empty_database(postgres_server) as url:
        monkeypatch.setenv("FLYWHEEL_DATABASE_URL", url)
        settings.cache_clear()
        yield url


@pytest.fixture
def bucket(monkeypatch):
    """A real S3 API, moto's server, with an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    port = free_port()
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    url = f"http://127.0.0.1:{port}"
    for name, value in {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    boto3.client("s3").create_bucket(Bucket="flywheel")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    yield "s3://flywheel/prefix"
    server.stop()


@pytest.fixture(scope="session")
def mlflow_process(tmp_path_factory):
    """A real MLflow server for the whole session."""
    folder, port = tmp_path_factory.mktemp("mlflow"), free_port()
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}, start_new_session=True
    )
    for _ in range(1800):
        try:
            if httpx.get(f"{url}/health", timeout=2).is_success:
                break
        except httpx.HTTPError:
            time.sleep(0.1)
    yield url
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@pytest.fixture
def mlflow_server(mlflow_process, home, monkeypatch):
    """An empty model of our own on it."""
    monkeypatch.setenv("FLYWHEEL_MLFLOW_URL", mlflow_process)
    monkeypatch.setenv("FLYWHEEL_MODEL_NAME", f"model-{uuid.uuid4().hex[:12]}")
    settings.cache_clear()
    return mlflow_process


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory):
    """A random two-layer Llama with a byte-level tokenizer and a chat template, as a model folder."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.write(folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    """Headless Chromium."""
    from tests.ui import screens

    if not screens.chromium():
        pytest.skip("no browser is installed: apt install chromium, or set CHROMIUM to one")
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as started:
        browser = screens.launch(started)
        yield browser
        browser.close()
