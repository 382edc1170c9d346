"""The real thing for the browser tests: PostgreSQL, MLflow, serving with a tiny model, the page, Chromium."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from pathlib import Path

import httpx
import pytest

from flywheel.settings import REPOSITORY, settings
from tests.conftest import empty_database, free_port
from tests.ui import screens
from tests.ui.identity import Identity


class Place:
    """Serving and the page as processes of their own, which a test may stop and start."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, command: list[str], url: str) -> None:
        """Start, and wait until the address answers."""
        with open(self.folder / f"{name}.log", "ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, *command], cwd=REPOSITORY, stdout=log, stderr=log, env=os.environ | {"PYTHONPATH": str(REPOSITORY)}
            )
        until = time.monotonic() + 240
        while time.monotonic() < until:
            try:
                if httpx.get(url, timeout=5).is_success:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.2)
        raise AssertionError((self.folder / f"{name}.log").read_text()[-3000:])

    def serving(self) -> None:
        """Start serving."""
        at = settings().serving_url
        self.start("serving", ["-m", "uvicorn", "serving.app:app", "--host", "127.0.0.1", "--port", at.rpartition(":")[2]], f"{at}/readyz")

    def page(self, port: int, *flags: str) -> str:
        """Start a page; its address."""
        command = ["-m", "streamlit", "run", str(REPOSITORY / "ui" / "app.py"), "--server.address", "127.0.0.1", "--server.port", str(port)]
        self.start(f"page-{port}", [*command, "--server.headless", "true", *flags], f"http://127.0.0.1:{port}/_stcore/health")
        return f"http://127.0.0.1:{port}"

    def kill(self, name: str) -> None:
        """End a process at once."""
        self.running[name].kill()
        self.running.pop(name).wait()


@pytest.fixture(scope="module")
def place(postgres_server, mlflow_process, tiny_model, tmp_path_factory):
    """A whole small installation for one module of tests."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "config.yaml").write_text(f"model: {{base: '{tiny_model}'}}\ningest: {{sources: [{{kind: docs, licence: x, consent: y}}]}}")
    with empty_database(postgres_server) as database, pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "HOME": folder, "CONFIG": folder / "config.yaml", "DATABASE_URL": database,
            "MLFLOW_URL": mlflow_process, "MODEL_NAME": f"model-{uuid.uuid4().hex[:12]}", "SERVING_URL": f"http://127.0.0.1:{free_port()}",
            "UI_URL": f"http://127.0.0.1:{free_port()}", "SERVING_AUTH": "off",
        }.items():  # fmt: skip
            patch.setenv(f"FLYWHEEL_{name}", str(value))
        settings.cache_clear()
        found = Place(folder)
        try:
            found.serving()
            found.page(int(settings().ui_url.rpartition(":")[2]))
            yield found
        finally:
            for name in list(found.running):
                found.kill(name)
    settings.cache_clear()


@pytest.fixture
def page(place, browser):
    """A fresh browser window."""
    context = browser.new_context()
    context.set_default_timeout(screens.PATIENCE)
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def identity():
    """An identity provider."""
    provider = Identity()
    yield provider
    provider.server.shutdown()
    provider.server.server_close()
