"""The pages inside Airflow's web server: what links lead to, and who may see it."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.api_fastapi.core_api.security import get_user
from fastapi.testclient import TestClient

from dags.pages import app as pages
from flywheel.settings import settings

RUN = "manual__2026-01-01T00:00:00+00:00"
ADDRESS = "/flywheel/manual__2026-01-01T00%3A00%3A00%2B00%3A00"


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_HOME", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()


@pytest.fixture
def client(home):
    pages.app.dependency_overrides[pages.may_see] = lambda: None
    yield TestClient(pages.app, follow_redirects=False)
    pages.app.dependency_overrides.clear()


def finished(home, stage, metrics=None, **outputs):
    """A manifest of this stage, and its outputs by name: file name and text."""
    folder = home / "store" / "runs" / "flywheel" / "manual__2026-01-01T00_00_00_00_00" / stage
    folder.mkdir(parents=True)
    now, listed = datetime.now(UTC).isoformat(), {}
    for name, (file, text) in outputs.items():
        (folder / file).write_text(text)
        listed[name] = {"uri": str((folder / file).relative_to(home / "store")), "sha256": "0", "bytes": len(text)}
    body = {"schema_version": 1, "stage": stage, "run_dir": f"runs/flywheel/{folder.parent.name}", "attempt": 1, "cache_key": "k", "started": now, "ended": now}
    (folder / "manifest.json").write_text(json.dumps({**body, "metrics": metrics or {}, "outputs": listed}))


def test_a_report_is_shown_without_any_right_of_its_own(client, home):
    finished(home, "gate", page=("report.html", "<script>alert(1)</script>"))
    reply = client.get(f"{ADDRESS}/report")
    assert reply.status_code == 200 and reply.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in reply.headers["content-security-policy"] and "allow-scripts" not in reply.headers["content-security-policy"]
    finished(home, "dataset", card=("README.md", "# Card"), report=("report.html", "<p>data"))
    assert client.get(f"{ADDRESS}/card").text == "# Card" and client.get(f"{ADDRESS}/data").text == "<p>data"
    assert client.get(f"{ADDRESS}/manifest/dataset").json()["stage"] == "dataset"


def test_what_is_registered_is_found_in_mlflow(client, home):
    assert client.get(f"{ADDRESS}/mlflow").status_code == 404
    finished(home, "register", {"version": 4, "page": "http://m/#/experiments/1/runs/ab/artifacts/report/report.html"})
    assert client.get(f"{ADDRESS}/mlflow").headers["location"] == "http://m/#/experiments/1/runs/ab"
    assert client.get(f"{ADDRESS}/version").headers["location"] == f"{settings().mlflow_url}/#/models/flywheel/versions/4"


def test_what_is_not_there_says_why(client, home):
    assert "has not finished" in client.get(f"{ADDRESS}/report").json()["detail"]
    assert "there is no page" in client.get(f"{ADDRESS}/nonsense").json()["detail"]
    for odd in ("/flywheel/..%2F..%2Fetc/report", "/..%2F..%2Fx/y/report"):
        assert client.get(odd).status_code == 404
    finished(home, "gate", page=("report.html", "x"))
    (home / "store" / "runs" / "flywheel" / "manual__2026-01-01T00_00_00_00_00" / "gate" / "report.html").unlink()
    assert "no longer in the store" in client.get(f"{ADDRESS}/report").json()["detail"]


def test_who_is_not_logged_in_is_sent_to_the_login_and_who_may_not_see_is_refused(home, monkeypatch):
    finished(home, "gate", page=("report.html", "secret"))
    client = TestClient(pages.app, follow_redirects=False)
    reply = client.get(f"{ADDRESS}/report")
    assert reply.status_code == 307 and reply.headers["location"].startswith("/auth/login?next=http")
    asked = []
    manager = SimpleNamespace(is_authorized_dag=lambda **what: asked.append(what["details"].id))
    monkeypatch.setattr(pages, "get_auth_manager", lambda: manager)
    pages.app.dependency_overrides[get_user] = lambda: "somebody"
    assert client.get(f"{ADDRESS}/report").status_code == 403 and asked == ["flywheel"]
    pages.app.dependency_overrides.clear()
