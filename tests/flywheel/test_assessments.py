"""On a real MLflow server: one trace an answer, one assessment a record, whatever was sent twice."""

import pytest
import sqlalchemy as sa

from flywheel import assessments, ledger, registry
from flywheel.errors import ContractError, TransientError
from flywheel.ledger.schema import feedback
from flywheel.settings import settings
from tests.flywheel.ledger.conftest import ask, give


def traces():
    client = registry.client()
    found = client.search_traces(locations=[assessments.experiment()], max_results=100)
    return {t.info.trace_id: t for t in found}


def test_each_record_is_one_assessment_and_a_correction_is_what_was_expected(database, mlflow_server):
    answer, other = ask(1, version="7"), ask(2)
    ids = [give(1, answer), give(2, answer, thumb=None, rating=4, correction="better", comment="because", user="Ada"), give(3, other, thumb="up")]
    assert assessments.log_pending() == 3 and assessments.log_pending() == 0
    with ledger.transaction() as db:  # the death between telling and noting it: all is told again
        db.execute(sa.update(feedback).values(logged=None))
    assert assessments.log_pending() == 3
    late = give(4, answer, thumb=None, signal="copied")
    assert assessments.log_pending() == 1
    found = traces()
    assert set(found) == {f"tr-{answer}", f"tr-{other}"}
    trace = found[f"tr-{answer}"]
    assert trace.data.spans[0].inputs["prompt"] == "question 1" and trace.data.spans[0].outputs == "answer 1"
    assert trace.info.tags["model_version"] == "7"
    told = {a.assessment_id: a for a in trace.info.assessments}
    assert set(told) == {f"a-{ids[0]}", f"a-{ids[1]}", f"e-{ids[1]}", f"a-{late}"}
    rated = told[f"a-{ids[1]}"]
    assert (rated.value, rated.rationale, rated.source.source_id, told[f"e-{ids[1]}"].value) == ("4/5", "because", "Ada", "better")
    assert told[f"a-{late}"].value == "copied"


def test_an_outage_loses_nothing(database, mlflow_server, monkeypatch):
    ids = [give(n) for n in range(3)]
    with monkeypatch.context() as patch:
        patch.setenv("FLYWHEEL_MLFLOW_URL", "http://127.0.0.1:1")
        settings.cache_clear()
        with pytest.raises(TransientError, match="Nothing is lost"):
            assessments.log_pending()
    settings.cache_clear()
    assert assessments.log_pending() == 3
    assert sorted(a.assessment_id for t in traces().values() for a in t.info.assessments) == sorted(f"a-{i}" for i in ids)


def test_what_mlflow_refuses_holds_nobody_up(database, mlflow_server, monkeypatch):
    bad, good = ask(1), ask(2)
    give(1, bad)
    mine = give(2, good)
    real = assessments._call

    def picky(method, path, body=None, **headers):
        if body and bad in str(body.get("trace", "")):
            body["trace"]["trace_info"]["trace_location"]["mlflow_experiment"]["experiment_id"] = "999999"
        return real(method, path, body, **headers)

    monkeypatch.setattr(assessments, "refused", {})
    with monkeypatch.context() as patch:
        patch.setattr(assessments, "_call", picky)
        with pytest.raises(ContractError, match=f"{bad}.*refuses"):
            assessments.log_pending()
    assert [a.assessment_id for t in traces().values() for a in t.info.assessments] == [f"a-{mine}"]
    assert assessments.log_pending() == 0  # not tried again and again
    assessments.refused.clear()  # a restart
    assert assessments.log_pending() == 1
