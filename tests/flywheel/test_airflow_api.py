"""How the client follows an Airflow that is slow, away, or of another mind. That it works with Airflow is shown in tests/e2e."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from flywheel import airflow_api, turn
from flywheel.airflow_api import AirflowApi
from flywheel.errors import ContractError, DataError, NotFound, TransientError
from flywheel.settings import settings

GOOD = "good-token"


class Airflow:
    """Answers from a script: a list of (status, body) by request, the last one for ever; counts what it was asked."""

    def __init__(self) -> None:
        self.script: dict[str, list[tuple[int, dict]]] = {}
        self.asked: list[tuple[str, dict]] = []
        self.tokens = [GOOD]

    def answer(self, method: str, path: str, authorization: str, body: dict) -> tuple[int, dict]:
        key = f"{method} {path.split('?')[0]}"
        self.asked.append((key, body))
        if key.endswith("/auth/token"):
            if method == "POST" and body != {"username": "ci", "password": "of-the-test"}:
                return 401, {"detail": "Invalid credentials"}
            return 201, {"access_token": self.tokens[-1]}
        if authorization != f"Bearer {self.tokens[-1]}":
            return (401, {"detail": "Token Expired"}) if authorization[7:] in self.tokens else (403, {"detail": "Invalid JWT token"})
        replies = self.script.get(key, [(404, {"detail": "not found"})])
        return replies.pop(0) if len(replies) > 1 else replies[0]


@pytest.fixture
def airflow(home, monkeypatch):
    told = Airflow()

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            status, body = told.answer(self.command, self.path, self.headers.get("authorization", ""), json.loads(raw) if raw else {})
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_PATCH = handle_any

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FLYWHEEL_AIRFLOW_URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(airflow_api, "PAUSE", 0.01)
    monkeypatch.setattr(turn, "POLL_SECONDS", 0.01)
    settings.cache_clear()
    yield told
    server.shutdown()
    server.server_close()


def test_the_laptops_airflow_gives_a_token_to_anybody(airflow):
    airflow.script["GET /api/v2/dags/flywheel"] = [(200, {"is_paused": False})]
    assert AirflowApi().dag("flywheel") == {"is_paused": False}
    assert [key for key, _ in airflow.asked] == ["GET /auth/token", "GET /api/v2/dags/flywheel"]


def test_a_token_or_a_password_from_the_environment_or_a_file(airflow, tmp_path, monkeypatch):
    airflow.script["GET /api/v2/dags/flywheel"] = [(200, {})]
    monkeypatch.setenv("FLYWHEEL_AIRFLOW_TOKEN", GOOD)
    AirflowApi().dag("flywheel")
    assert len(airflow.asked) == 1
    monkeypatch.delenv("FLYWHEEL_AIRFLOW_TOKEN")
    (tmp_path / "token").write_text(f"{GOOD}\n")
    monkeypatch.setenv("FLYWHEEL_AIRFLOW_TOKEN_FILE", str(tmp_path / "token"))
    AirflowApi().dag("flywheel")
    assert len(airflow.asked) == 2
    monkeypatch.setenv("FLYWHEEL_AIRFLOW_TOKEN_FILE", str(tmp_path / "none"))
    with pytest.raises(ContractError, match=r"none cannot be read \(No such file or directory\)"):
        AirflowApi().dag("flywheel")
    monkeypatch.delenv("FLYWHEEL_AIRFLOW_TOKEN_FILE")
    monkeypatch.setenv("FLYWHEEL_AIRFLOW_USER", "ci")
    (tmp_path / "password").write_text("of-the-test")
    monkeypatch.setenv("FLYWHEEL_AIRFLOW_PASSWORD_FILE", str(tmp_path / "password"))
    AirflowApi().dag("flywheel")
    assert [key for key, _ in airflow.asked[2:]] == ["POST /auth/token", "GET /api/v2/dags/flywheel"]


def test_a_wrong_token_is_a_sentence_and_is_not_shown(airflow, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_AIRFLOW_TOKEN", "a-wrong-one")
    with pytest.raises(ContractError, match=r"does not accept these credentials.*Set FLYWHEEL_AIRFLOW_TOKEN") as error:
        AirflowApi().dag("flywheel")
    assert error.value.exit_code == 2 and "a-wrong-one" not in error.value.sentence
    assert len(airflow.asked) == 1


def test_an_expired_token_is_fetched_again(airflow):
    airflow.script["GET /api/v2/dags/flywheel"] = [(200, {})]
    api = AirflowApi()
    api.dag("flywheel")
    airflow.tokens.append("a-later-one")
    assert api.dag("flywheel") == {}
    assert api.token == "a-later-one"


def test_an_airflow_that_never_answered_is_not_waited_for(home, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_AIRFLOW_URL", "http://127.0.0.1:1")
    settings.cache_clear()
    with pytest.raises(TransientError, match=r"http://127.0.0.1:1: Airflow does not answer .* FLYWHEEL_AIRFLOW_URL"):
        AirflowApi().dag("flywheel")


def test_one_that_has_answered_may_be_away_for_a_while(airflow, monkeypatch):
    airflow.script["GET /api/v2/dags/flywheel"] = [(200, {}), (503, {}), (502, {}), (200, {"is_paused": True})]
    api = AirflowApi()
    api.dag("flywheel")
    assert api.dag("flywheel") == {"is_paused": True}
    monkeypatch.setattr(airflow_api, "PATIENCE", 0.05)
    airflow.script["GET /api/v2/dags/flywheel"] = [(503, {})]
    with pytest.raises(TransientError, match="answers with 503"):
        api.dag("flywheel")


def test_a_lost_answer_does_not_start_a_second_run(airflow):
    runs = "POST /api/v2/dags/flywheel/dagRuns"
    airflow.script["GET /api/v2/dags/flywheel"] = [(200, {})]
    airflow.script[runs] = [(504, {}), (409, {"detail": "a run of this id exists"})]
    api = AirflowApi()
    api.dag("flywheel")
    run_id = api.trigger("flywheel", {"rollout": "no"})
    sent = [body for key, body in airflow.asked if key == runs]
    assert len(sent) == 2 and {body["dag_run_id"] for body in sent} == {run_id} and sent[0]["conf"] == {"rollout": "no"}


def test_an_unknown_dag_is_a_sentence(airflow, monkeypatch):
    monkeypatch.setattr(turn, "PARSE_SECONDS", 0)
    airflow.script["GET /api/v2/importErrors"] = [(200, {"import_errors": []})]
    with pytest.raises(NotFound, match=r"flywheel: Airflow at http://127.0.0.1:\d+ has no such DAG.*FLYWHEEL_AIRFLOW_URL") as error:
        turn.start({})
    assert error.value.exit_code == 2


def test_a_paused_dag_is_left_alone_when_asked(airflow):
    airflow.script["GET /api/v2/dags/flywheel"] = [(200, {"is_paused": True})]
    with pytest.raises(ContractError, match="paused"):
        turn.start({}, unpause=False)
    assert not [key for key, _ in airflow.asked if key.startswith("P")]
    airflow.script |= {"PATCH /api/v2/dags/flywheel": [(200, {})], "POST /api/v2/dags/flywheel/dagRuns": [(200, {})]}
    airflow.script["GET /api/v2/dags/flywheel/dagRuns"] = [(200, {"dag_runs": []})]
    assert turn.start({}).startswith("manual__")


RUN = "GET /api/v2/dags/flywheel/dagRuns/r%3A1"


def states(*found: tuple[str, dict[str, str | None]]) -> dict[str, list[tuple[int, dict]]]:
    """A script of a run's state and its tasks', poll by poll."""
    tasks = [(200, {"task_instances": [{"task_id": t, "state": s, "duration": 1.0} for t, s in each.items()]}) for _, each in found]
    return {RUN: [(200, {"state": state}) for state, _ in found], f"{RUN}/taskInstances": tasks}


def test_following_a_run_to_its_end(airflow, home, capsys):
    airflow.script |= states(
        ("queued", {"ingest": None}), ("running", {"ingest": "running"}), ("running", {"ingest": "success", "train": "deferred"}),
        ("success", {"ingest": "success", "train": "skipped"}),
    )  # fmt: skip
    airflow.script[RUN].insert(2, (502, {}))
    assert turn.follow("r:1", 30) == str(home / "store" / "runs" / "flywheel" / "r_1")
    said = capsys.readouterr().out
    assert said.count("ingest     success") == 1 and "train      skipped" in said


def test_a_run_that_fails_and_one_that_hangs(airflow):
    airflow.script |= states(("failed", {"ingest": "success", "clean": "failed", "train": "upstream_failed"}))
    with pytest.raises(DataError, match=r"r:1: the run failed at clean\. Its log is at http://127.0.0.1:\d+/dags/flywheel/runs/r%3A1"):
        turn.follow("r:1", 30)
    airflow.script |= states(("running", {"ingest": "running"}))
    with pytest.raises(TransientError, match="did not end within 0 s and goes on") as error:
        turn.follow("r:1", 0.05)
    assert error.value.exit_code == 75
