"""A person is asked before a rollout."""

import json
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from airflow.sdk.exceptions import TaskAwaitingInput

from dags.launch import telling
from dags.launch.approval import PromotionApproval
from flywheel.settings import settings
from tests.dags.runs import context, write_manifest


@pytest.fixture
def asked(home, monkeypatch):
    """The approval task of a run whose gate and register are done; gives the operator and what it put before people."""
    from airflow.providers.standard.operators import hitl

    seen = {}
    monkeypatch.setattr(hitl, "upsert_hitl_detail", lambda **detail: seen.update(detail))
    operator = PromotionApproval(task_id="approve")
    ti = SimpleNamespace(id="x", xcom_pull=lambda task_ids: None)

    def execute(approval, **params):
        verdict = home / "store" / "verdict.json"
        verdict.parent.mkdir(parents=True, exist_ok=True)
        verdict.write_text(json.dumps({"paragraph": "It is better."}))
        outputs = {"verdict": {"uri": "verdict.json", "sha256": "0", "bytes": 1}}
        write_manifest(home, "gate", stage="gate", metrics={"approval": approval}, outputs=outputs)
        write_manifest(home, "register", stage="register", metrics={"version": 4, "page": "http://127.0.0.1/report"})
        return operator.execute({**context(**params), "task_instance": ti, "ti": ti})

    return execute, operator, seen


def test_nobody_is_asked_when_the_policy_does_not_want_it(asked):
    execute, _, seen = asked
    assert execute("not needed") is None and execute("needed", rollout="no") is None and not seen


def test_the_form_asks_for_a_comment_and_for_nothing_else(home):
    from dags import flywheel_dag

    (comment,) = flywheel_dag.dag.get_task("approve").serialized_params.items()
    assert comment[0] == "comment" and "null" in comment[1]["schema"]["type"]


def test_a_person_sees_the_verdict_and_the_report_and_is_recorded(asked, monkeypatch):
    execute, operator, seen = asked
    told = []
    monkeypatch.setattr(telling, "asked", lambda context, version, paragraph: told.append((version, paragraph)))
    with pytest.raises(TaskAwaitingInput):
        execute("needed")
    assert told == [(4, "It is better.")]
    assert seen["subject"] == "Roll out version 4?" and "It is better." in seen["body"] and "http://127.0.0.1/report" in seen["body"]
    assert seen["defaults"] == ["Reject"]  # no answer in time holds
    yes = {
        "chosen_options": ["Approve"],
        "params_input": {"comment": "fine"},
        "responded_at": datetime.now(UTC),
        "responded_by_user": {"id": "7", "name": "Ada"},
    }
    assert operator.execute_complete(context(), yes) == "Ada"
    assert operator.execute_complete(context(), {**yes, "chosen_options": ["Reject"], "responded_by_user": None}) is None


def test_an_answer_by_a_signed_link_is_its_receivers_and_nobody_else_can_claim_it(asked, monkeypatch):
    from flywheel.notices import approving

    _, operator, _ = asked
    monkeypatch.setenv("FLYWHEEL_LINK_KEY", "k" * 43)  # pragma: allowlist secret
    settings.cache_clear()
    question = approving.Question("flywheel", context()["dag_run"].run_id, "approve", "grace@example.org")
    event = {"chosen_options": ["Approve"], "responded_at": datetime.now(UTC), "responded_by_user": {"id": "1", "name": "airflow-service"}}
    by_link = {**event, "params_input": {"comment": approving.receipt(question, "Approve")}}
    assert operator.execute_complete(context(), by_link) == "grace@example.org"
    for claim in ("grace@example.org", approving.receipt(question, "Reject"), approving.link({"dag": "flywheel", "run": question.run, "task": "approve"}, "x")):
        assert operator.execute_complete(context(), {**event, "params_input": {"comment": claim}}) == "airflow-service"


def test_no_answer_in_time_holds_or_approves_as_the_policy_says(home, monkeypatch):
    assert PromotionApproval(task_id="a").defaults == ["Reject"]
    monkeypatch.setenv("FLYWHEEL_APPROVAL_TIMEOUT", "approve")
    settings.cache_clear()
    operator = PromotionApproval(task_id="b")
    event = {"chosen_options": ["Approve"], "params_input": {}, "responded_at": datetime.now(UTC), "responded_by_user": None}
    assert operator.defaults == ["Approve"] and "FLYWHEEL_APPROVAL_TIMEOUT" in operator.execute_complete(context(), event)
