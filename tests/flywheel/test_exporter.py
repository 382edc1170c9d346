"""The exporter over real manifests, a real ledger and a real registry, asked through its WSGI application."""

import json
import threading
import uuid
from datetime import UTC, datetime, timedelta
from wsgiref.util import setup_testing_defaults

import pytest

from flywheel import exporter, figures, ledger, manifest, spend, store
from flywheel.figures import figure
from flywheel.manifest import Artifact, Cost, Manifest
from flywheel.records import FeedbackIn
from flywheel.settings import settings


def ask(application, path="/metrics", method="GET", body=b""):
    import io

    environ = {"REQUEST_METHOD": method, "PATH_INFO": path, "CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
    setup_testing_defaults(environ)
    seen = []
    text = b"".join(application(environ, lambda status, headers: seen.append(status))).decode()
    return seen[0], text


def values(families):
    return {f.name + "".join(f"{{{v}}}" for v in s.labels.values()): s.value for f in families for s in f.samples}


def write(run, stage, ended, outcome="done", outputs=None, **metrics):
    uri = manifest.run_dir("flywheel", run, settings().store)
    rows = {name: Artifact(uri=name, sha256="0", bytes=1, rows=count) for name, count in (outputs or {}).items()}
    made = Manifest(
        stage=stage, run_dir=store.relative(uri), attempt=1, cache_key="k", outcome=outcome, outputs=rows, metrics=metrics,
        cost=Cost(wall_seconds=10, cpu_seconds=5, money=0.5), started=ended, ended=ended,
    )  # fmt: skip
    manifest.write(made, uri)
    return uri


def test_the_newest_turn_that_ended_gives_time_verdict_and_cost(home):
    first = datetime(2026, 3, 1, 2, tzinfo=UTC)
    for stage in ("clean", "evaluate", "gate", "register", "rollout"):
        more = {"gate": {"verdict": "promote"}, "evaluate": {"log_loss.champion": 2.0}}.get(stage, {})
        write("scheduled__2026-03-01T02:00:00", stage, first, outputs={"train": 75, "quarantine": 25, "steps": 4} if stage == "clean" else None, **more)
    second = first + timedelta(days=1)
    write("scheduled__2026-03-02T02:00:00", "train", second, outcome="skipped")
    write("scheduled__2026-03-03T02:00:00", "clean", second + timedelta(days=1), outputs={"train": 90, "quarantine": 10, "steps": 100})  # it still runs
    found = values(figures.turns())
    assert found["flywheel_turn_finished_timestamp_seconds"] == second.timestamp()
    assert found["flywheel_turn_verdict{skipped}"] == 1 and found["flywheel_turn_verdict{promote}"] == 0
    assert found["flywheel_turn_money"] == 0.5
    assert found["flywheel_champion_check_timestamp_seconds"] == first.timestamp()
    assert found["flywheel_evaluation_score{log_loss.champion}"] == 2.0
    assert found["flywheel_quarantine_ratio{clean}"] == pytest.approx(0.1)


def test_drift_is_what_the_checks_before_training_found_beside_its_limit(home):
    checks = [
        {"name": "length_drift", "outcome": "warn", "figure": 0.3, "limit": 0.25, "text": ""},
        {"name": "vocabulary_drift", "outcome": "skip", "figure": None, "limit": 0.1, "text": ""},
        {"name": "duplicates", "outcome": "pass", "figure": 0.0, "limit": 0.0, "text": ""},
    ]
    store.write_bytes(store.join(settings().store, "checks"), json.dumps(checks).encode())
    write("scheduled__2026-03-01T02:00:00", "tokenize", datetime(2026, 3, 1, tzinfo=UTC), outputs={"checks": 3})
    found = values(figures.turns())
    assert {name: v for name, v in found.items() if "drift" in name} == {"flywheel_data_drift{length}": 0.3, "flywheel_data_drift_limit{length}": 0.25}


def test_a_training_that_has_not_finished_shows_when_it_last_saved_its_state(home):
    assert values(figures.training()) == {}
    run = manifest.run_dir("flywheel", "scheduled__2026-03-01T02:00:00", settings().store)
    state = store.join(run, "train", "checkpoints", "abc", "state.pt")
    store.write_bytes(state, b"state")
    assert values(figures.training())["flywheel_training_progress_timestamp_seconds"] == pytest.approx(store.modified(state).timestamp())
    write("scheduled__2026-03-01T02:00:00", "train", datetime(2026, 3, 1, tzinfo=UTC))
    assert values(figures.training()) == {}


def test_only_corrections_with_consent_make_feedback_usable(database):
    def give(**what):
        answer = ledger.add_answer("q", "", "a", "1")
        ledger.add_feedback(FeedbackIn(answer_id=answer, idempotency_key=uuid.uuid4().hex, **what))

    give(thumb="up", consent=True)
    give(correction="better", consent=False)
    assert "flywheel_feedback_oldest_timestamp_seconds" not in values(figures.feedback())
    give(correction="better", consent=True)
    found = values(figures.feedback())
    assert (found["flywheel_feedback_records{waiting}"], found["flywheel_feedback_usable_waiting"]) == (3, 1)
    assert abs(found["flywheel_feedback_oldest_timestamp_seconds"] - datetime.now(UTC).timestamp()) < 60
    ledger.seal_segments()
    batch = ledger.claim()
    found = values(figures.feedback())
    assert (found["flywheel_feedback_records{claimed}"], found["flywheel_feedback_usable_waiting"], found["flywheel_feedback_open_batches"]) == (3, 0, 1)
    with ledger.publishing(batch):
        pass
    assert values(figures.feedback())["flywheel_feedback_open_batches"] == 0


def test_the_week_is_shown_by_stage_beside_its_budget_and_no_budget_is_infinite(home, monkeypatch):
    home.mkdir()
    (home / "config.yaml").write_text("ingest: {sources: [{kind: docs, licence: x, consent: y}]}\ntrain: {weekly_money: 10}")
    settings.cache_clear()
    for stage, money in (("train", 1.5), ("train", 1.0), ("gate", 0.5)):
        spend.record(stage, Cost(money=money, gpu_seconds=60))
    found = values(figures.spending())
    assert (found["flywheel_week_money{train}"], found["flywheel_week_money{gate}"]) == (2.5, 0.5)
    assert (found["flywheel_week_budget_money"], found["flywheel_week_budget_gpu_seconds"]) == (10, float("inf"))
    assert spend.this_week().money == 3.0


def test_the_registry_gives_the_champion(mlflow_server):
    found = values(figures.champion())
    assert found == {"flywheel_champion_version": 0, **{f"flywheel_versions{{{v}}}": 0 for v in ("promote", "hold", "refuse")}}


def test_a_source_that_fails_or_hangs_is_down_and_the_others_go_on(home, monkeypatch, caplog):
    monkeypatch.setattr(exporter, "PATIENCE_SECONDS", 0.2)
    stuck, calls = threading.Event(), []

    def broken():
        calls.append(1)
        raise OSError("the store is away")

    good = lambda: [figure("good", "It is", 1.0)]  # noqa: E731
    application = exporter.application({"good": (good, 60), "broken": (broken, 60), "stuck": (lambda: stuck.wait() and [], 60)})
    try:
        for _ in range(2):
            status, text = ask(application)
            assert status == "200 OK"
            for name, up in (("good", "1.0"), ("broken", "0.0"), ("stuck", "0.0")):
                assert f'flywheel_exporter_up{{source="{name}"}} {up}' in text
            assert "flywheel_good 1.0" in text and "process_cpu_seconds_total" in text
        assert len(calls) == 1, "what is known is used until it is too old"
        assert [r.getMessage() for r in caplog.records if r.name == "flywheel.exporter"] == ["broken: OSError: the store is away"]
    finally:
        stuck.set()


def test_otlp_comes_in_beside_metrics(home):
    from tests.flywheel.test_otlp import request

    application = exporter.application({"good": (list, 60)})
    assert ask(application, "/v1/metrics", "POST", request("airflow.scheduler_heartbeat", "count", 3))[0] == "200 OK"
    assert "airflow_scheduler_heartbeat_total 3.0" in ask(application)[1]
    status, text = ask(application, "/v1/metrics", "POST", b"\xff\xff")
    assert status.startswith("400") and "OTEL_EXPORTER_OTLP_PROTOCOL" in text
    assert ask(application, "/healthz")[0] == "200 OK"
