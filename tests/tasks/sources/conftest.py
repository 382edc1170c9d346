"""Readers as a config makes them, and a real web server that answers as each test says."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import httpx
import pytest
from pydantic import TypeAdapter

from flywheel.config import Source
from tasks import sources
from tests.conftest import free_port

GOOD = {"instruction": "Say hi", "input": "", "output": "hi"}
SOURCE: TypeAdapter[Any] = TypeAdapter(Source)


def reader(until: str = "", **options: Any) -> sources.Reader:
    """The reader of a source, as a config would make it."""
    source = SOURCE.validate_python({"licence": "x", "consent": "y", **options})
    return sources.reader(source, datetime.fromisoformat(until) if until else None)


def parted(one: sources.Reader) -> tuple[list[sources.Row], list[sources.Rejected]]:
    """(rows, rejected) of a source."""
    found = list(one.read())
    return [f[2] for f in found if isinstance(f, tuple)], [f for f in found if isinstance(f, sources.Rejected)]


class Server:
    """Answers GET with what `routes` holds for the path: (status, body, headers), or a function of the request that returns it."""

    def __init__(self) -> None:
        self.routes: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, str]]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
                answer = outer.routes.get(self.path.split("?")[0], (404, b"nothing here", {}))
                status, body, headers = answer(self) if isinstance(answer, Callable) else answer
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **headers}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def paths(self) -> list[str]:
        return [path for path, _ in self.asked]


@pytest.fixture
def server():
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


@pytest.fixture(scope="module")
def one_server():
    """One for all examples of a property."""
    one = Server()
    yield one
    one.http.shutdown()
    one.http.server_close()


@pytest.fixture(scope="session")
def s3_process():
    """A real S3 server (moto)."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    for _ in range(600):
        try:
            httpx.get(url, timeout=2)
            break
        except httpx.HTTPError:
            time.sleep(0.1)
    yield url
    process.kill()
    process.wait()


@pytest.fixture
def bucket(s3_process, monkeypatch):
    """An empty bucket on it, and its file system."""
    import fsspec

    for name, value in {
        "AWS_ENDPOINT_URL": s3_process,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    fsspec.filesystem("s3").clear_instance_cache()
    fs = fsspec.filesystem("s3")
    name = f"b{os.urandom(6).hex()}"
    fs.mkdir(name)
    yield name, fs
    fs.clear_instance_cache()
