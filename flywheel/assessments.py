"""Feedback in MLflow: one trace an answer that somebody judged, one assessment a record, and an expectation for each correction.

The outbox is the ledger itself: a record whose `logged` is empty has to be told. Every id follows from the ledger's (`tr-<answer>`,
`a-<record>`, `e-<record>`), so what a death or an outage makes us send twice is there once. A forgotten record is told again, and deleted.
Speaks MLflow's REST API: its client takes seconds to import and makes ids of its own.
"""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import UTC, datetime
from functools import cache
from typing import Any

import httpx
import sqlalchemy as sa

from flywheel.errors import ContractError, TransientError
from flywheel.ledger import record_of, transaction
from flywheel.ledger.feedback import READ
from flywheel.ledger.schema import MLFLOW_LOCK, answers, feedback
from flywheel.records import Feedback
from flywheel.settings import settings

ROWS = 100  # records a step
PREVIEW = 1000  # characters of a prompt or a response in MLflow's lists


refused: dict[str, str] = {}  # answers that MLflow will not take, and why: they wait for a restart, and hold nobody up


@cache
def _http() -> httpx.Client:
    return httpx.Client(timeout=30)


def _call(method: str, path: str, body: Any = None, **headers: str) -> Any:
    """One call of MLflow's API. Raises TransientError when it is away or failing, ContractError when it refuses what we send."""
    try:
        reply = _http().request(method, f"{settings().mlflow_url}{path}", json=body, headers=headers)
    except httpx.HTTPError as error:
        raise TransientError(
            f"MLflow does not answer ({type(error).__name__})", where=settings().mlflow_url, mend="Nothing is lost: feedback is told when it is back."
        ) from error
    if reply.status_code >= 500 or reply.status_code == 429:
        raise TransientError(f"MLflow answers with {reply.status_code}", where=path, mend="Nothing is lost: feedback is told when it is well.")
    missing = reply.status_code == 404 and method != "POST"
    if reply.is_error and not missing:
        raise ContractError(f"MLflow refuses ({reply.status_code}: {reply.text[:200]})", where=path, mend="Look at `make logs S=mlflow`.")
    if missing or not reply.content:
        return None
    try:
        return reply.json()
    except ValueError as error:
        raise TransientError("what answers is not MLflow", where=settings().mlflow_url, mend="Look at FLYWHEEL_MLFLOW_URL.") from error


def experiment() -> str:
    """The id of the flywheel's experiment, made when it is not there."""
    name = settings().model_name
    found = _call("GET", f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}")
    return str(found["experiment"]["experiment_id"] if found else _call("POST", "/api/2.0/mlflow/experiments/create", {"name": name})["experiment_id"])


def log_pending() -> int:
    """Tell MLflow of some records, and delete what was forgotten; returns how many, 0 when there are none or another server is at it.

    Raises TransientError when MLflow is away, ContractError, after the others are told, when it refuses one.
    """
    before = len(refused)
    with transaction() as db:
        if not db.execute(sa.select(sa.func.pg_try_advisory_xact_lock(MLFLOW_LOCK))).scalar():
            return 0
        pending = READ.add_columns(answers.c.at.label("answered"), answers.c.forgotten.label("answer_forgotten")).where(feedback.c.logged.is_(None))
        pending = pending.where(feedback.c.answer_id.not_in(list(refused)))
        rows = db.execute(pending.order_by(feedback.c.number).limit(ROWS)).all()
        if not rows:
            return 0
        where = experiment()
        told = [row for row in rows if row.sha256 is None]
        if told:
            _tell(told, where)
        for row in rows:
            if row.sha256 is not None and row.answer_forgotten is None:
                for kind in "ae":
                    _call("DELETE", f"/api/3.0/mlflow/traces/tr-{row.answer_id}/assessments/{kind}-{row.id}")
        gone = sorted({f"tr-{row.answer_id}" for row in rows if row.answer_forgotten is not None})
        if gone:
            _call("POST", "/api/3.0/mlflow/traces/delete-traces", {"experiment_id": where, "request_ids": gone})
        for same in (True, False):  # what was forgotten while we spoke stays to be told
            ids = [row.id for row in rows if (row.sha256 is None) is same and row.answer_id not in refused]
            state = feedback.c.sha256.is_(None) if same else feedback.c.sha256.is_not(None)
            db.execute(feedback.update().where(feedback.c.id.in_(ids), state).values(logged=sa.func.now()))
    if len(refused) > before:
        raise ContractError(*list(refused.values())[-1:], where="feedback for MLflow", mend="It is tried again when the service starts again.")
    return len(rows)


def _tell(rows: list[Any], where: str) -> None:
    by_answer: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        by_answer[row.answer_id].append(row)
    spans = [_span(records[0]) for records in by_answer.values()]
    _call("POST", "/v1/traces", {"resourceSpans": [{"scopeSpans": [{"spans": spans}]}]}, **{"x-mlflow-experiment-id": where})
    for answer_id, records in by_answer.items():
        one = records[0]
        info = {
            "trace_id": f"tr-{answer_id}",
            "trace_location": {"type": "MLFLOW_EXPERIMENT", "mlflow_experiment": {"experiment_id": where}},
            "request_preview": one.prompt[:PREVIEW], "response_preview": one.response[:PREVIEW], "request_time": _iso(one.answered), "state": "OK",
            "tags": {"mlflow.traceName": "answer", "model_version": one.model_version},
            "assessments": [a for row in records for a in _assessments(record_of(row))],
        }  # fmt: skip
        try:
            _call("POST", "/api/3.0/mlflow/traces", {"trace": {"trace_info": info}})
        except ContractError as error:
            refused[answer_id] = f"answer {answer_id}: {error.what}"


def _span(row: Any) -> dict[str, Any]:
    """The answer as a span of OpenTelemetry: the trace's one span, with what was asked and answered in full."""
    at = str(int(row.answered.timestamp() * 1e9))
    attributes = {"mlflow.spanType": "LLM", "mlflow.spanInputs": {"prompt": row.prompt, "input": row.input}, "mlflow.spanOutputs": row.response}
    return {
        "traceId": row.answer_id, "spanId": row.answer_id[:16], "name": "answer", "startTimeUnixNano": at, "endTimeUnixNano": at, "status": {"code": 1},
        "attributes": [{"key": key, "value": {"stringValue": json.dumps(value)}} for key, value in attributes.items()],
    }  # fmt: skip


def _assessments(record: Feedback) -> list[dict[str, Any]]:
    """A record's judgement, and its correction as what was expected."""
    common = {
        "trace_id": f"tr-{record.answer_id}", "source": {"source_type": "HUMAN", "source_id": record.user or "anonymous"},
        "create_time": _iso(record.timestamp), "last_update_time": _iso(record.timestamp),
        "metadata": {"feedback_id": record.id, "source": record.source, "consent": str(record.consent), "tags": ", ".join(record.tags)},
    }  # fmt: skip
    judged = {**common, "assessment_id": f"a-{record.id}", "assessment_name": "feedback", "feedback": {"value": record.verdict or "comment"}}
    if record.comment:
        judged["rationale"] = record.comment
    if not record.correction:
        return [judged]
    return [judged, {**common, "assessment_id": f"e-{record.id}", "assessment_name": "correction", "expectation": {"value": record.correction}}]


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
