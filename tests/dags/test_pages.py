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


@pytest.fixture
def asked(home, monkeypatch):
    """A client, a token of Grace's, and what Airflow and the audit log were told."""
    from flywheel import ledger
    from flywheel.airflow_api import AirflowApi
    from flywheel.notices import approving

    monkeypatch.setenv("FLYWHEEL_LINK_KEY", "k" * 43)  # pragma: allowlist secret
    settings.cache_clear()
    finished(home, "gate", verdict=("verdict.json", json.dumps({"paragraph": "It is <better>."})), page=("report.html", "<p>the report"))
    finished(home, "register", {"version": 4, "page": "http://m"})
    told, events = [], []
    monkeypatch.setattr(AirflowApi, "answer", lambda self, *what: told.append(what))
    monkeypatch.setattr(ledger, "record_event", lambda who, action, **detail: events.append((who, action, detail)))
    token = approving.link({"dag": "flywheel", "run": RUN, "task": "approve"}, "grace@example.org").partition("token=")[2]
    return TestClient(pages.app, follow_redirects=False), token, told, events


def test_a_signed_link_shows_the_question_with_the_report_beside_it_and_decides_nothing(asked):
    client, token, told, _ = asked
    page = client.get("/approve", params={"token": token})
    assert page.status_code == 200 and "Roll out version 4?" in page.text and "It is &lt;better&gt;." in page.text and "grace@example.org" in page.text
    assert f"approve/report?token={token}" in page.text and not told
    assert client.get("/approve/report", params={"token": token}).text == "<p>the report"


def test_an_answer_goes_to_airflow_with_a_receipt(asked):
    from flywheel.notices import approving

    client, token, told, events = asked
    reply = client.post("/approve", data={"token": token, "answer": "approve"})
    assert reply.status_code == 200 and "Thank you" in reply.text
    ((dag, run, task, option, said),) = told
    assert (dag, run, task, option) == ("flywheel", RUN, "approve", "Approve")
    assert approving.person(said["comment"], RUN, "Approve") == "grace@example.org"
    assert events == [("grace@example.org", "answer", {"run": RUN, "answer": "Approve"})]
    client.post("/approve", data={"token": token, "answer": "hold"})
    assert told[-1][3] == "Reject"


def test_a_forged_link_and_a_wrong_answer_are_refused(asked):
    client, token, told, _ = asked
    for wrong in ("", "nonsense", token[:-2]):
        assert client.get("/approve", params={"token": wrong}).status_code == 403
        assert client.get("/approve/report", params={"token": wrong}).status_code == 403
        assert client.post("/approve", data={"token": wrong, "answer": "approve"}).status_code == 403
    assert client.post("/approve", data={"token": token, "answer": "perhaps"}).status_code == 400 and not told


def test_an_answer_that_comes_second_or_does_not_get_through_says_so(asked, monkeypatch):
    from flywheel.airflow_api import AirflowApi, Conflict
    from flywheel.errors import TransientError

    client, token, _, events = asked
    for error, status in ((Conflict("answered"), 409), (TransientError("away"), 502)):

        def fail(self, *what, error=error):
            raise error

        monkeypatch.setattr(AirflowApi, "answer", fail)
        assert client.post("/approve", data={"token": token, "answer": "approve"}).status_code == status and not events
