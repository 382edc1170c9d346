"""What Airflow tells people of a run."""

from types import SimpleNamespace

from airflow.sdk.exceptions import AirflowException

from dags.launch import telling
from tests.dags.runs import context, write_manifest


def summed(home, monkeypatch, **metrics):
    """What a run's end tells: its note, and its messages."""
    from flywheel import airflow_api, notices

    notes, told = [], []
    monkeypatch.setattr(airflow_api.AirflowApi, "note", lambda self, dag, run, text: notes.append(text))
    monkeypatch.setattr(notices, "tell", lambda kind, key, facts, links=None, ask=None: told.append((kind, key, facts, links, ask)))
    base_ = {"ended": "held", "why": "no evidence", "money": 0.5, "currency": "USD", "seconds": 60.0, "primary": "log_loss"}
    write_manifest(home, "summary", stage="summary", metrics={**base_, **metrics})
    telling.summed_up(context())
    return notes, told


def test_a_run_ends_with_a_note_and_one_message(home, monkeypatch):
    notes, told = summed(home, monkeypatch, version=4, gain=0.01)
    assert notes == ["**held** · version 4 · +0.0100 log loss · 0.5000 USD\n\nno evidence"]
    ((kind, key, facts, links, _),) = told
    assert (kind, key, facts["gain"]) == ("result", "result flywheel manual__2026-01-01T00:00:00+00:00", 0.01)
    assert links["The whole turn"].endswith("/turn") and "/runs/manual__2026" in links["Run in Airflow"]


def test_a_failed_run_has_its_note_but_no_second_message(home, monkeypatch):
    notes, told = summed(home, monkeypatch, ended="failed", why="train did not finish")
    assert notes == ["**failed** · 0.5000 USD\n\ntrain did not finish"] and told == []


def test_a_failure_is_told_at_once_and_telling_never_fails_a_task(home, monkeypatch, caplog):
    from dags import flywheel_dag
    from flywheel import notices

    told = []
    monkeypatch.setattr(notices, "tell", lambda kind, key, facts, links=None, ask=None: told.append((kind, key, facts["why"])))
    callbacks = flywheel_dag.dag.get_task("train").on_failure_callback
    task = SimpleNamespace(task_id="train", try_number=3)
    for callback in callbacks:
        callback({**context(), "task_instance": task, "exception": AirflowException("out of memory")})
    assert told == [("failure", "failure flywheel manual__2026-01-01T00:00:00+00:00 train 3", "out of memory")]
    monkeypatch.setattr(notices, "tell", lambda *a, **k: 1 / 0)
    telling.failed({**context(), "task_instance": task})
    assert "nobody could be told" in caplog.text
