"""Forget a planted person: the next version has none of their records, and everything that had is listed."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from flywheel import assessments, cli, config, features, forgetting, ledger, registry, stage, store
from flywheel.errors import ContractError, NotFound
from flywheel.feature_rows import prompt_key
from flywheel.ledger import policy
from flywheel.ledger.schema import feedback
from flywheel.records import Example
from flywheel.settings import REPOSITORY, settings
from tasks import ingest
from tests.flywheel.ledger.conftest import ask, curate, give, published, sealed_lines

SECRET = "the planted person's own words"


def next_data_set(home, name):
    """The feedback records that the real `ingest` collects now."""
    (home / "own.jsonl").write_text('{"instruction": "one", "output": "two"}\n')
    source = json.dumps([{"kind": "files", "path": str(home / "own.jsonl"), "licence": "CC0-1.0", "consent": "made here"}])
    conf = config.load(str(REPOSITORY / "config" / "flywheel.yaml"), [f"ingest.sources={source}"])
    done = stage.execute(ingest.STAGE, conf, store.join(settings().store, "runs", "flywheel", name))
    lines = done.outputs["records"].fetch(settings().home / "cache").read_bytes().splitlines()
    return {i for e in map(Example.model_validate_json, lines) for i in e.feedback_ids}


@pytest.fixture
def planted(learn, home):
    """Eve asked, and corrected; Bob judged one of her answers; others gave feedback of their own. A version learned it all."""
    hers = ledger.add_answer(SECRET, "", "an answer", "1", "Eve")
    eve = [give(1, hers, correction=SECRET, user="Eve"), give(2, correction=f"{SECRET} again", user="Eve")]
    bob = give(3, hers, correction="Bob's", user="Bob")
    others = [give(n, correction=f"right {n}", user="Ada") for n in range(4, 8)]
    curate(home, "1")
    one, dataset = learn("one", published())
    two, _ = learn("two", [], parent=one)
    assert next_data_set(home, "before") == {*eve, bob, *others}
    assert assessments.log_pending() == 7
    return eve, bob, others, [str(one), str(two)], dataset


def test_a_person_is_in_nothing_later_and_all_that_came_before_is_listed(planted, home):
    eve, bob, others, versions, dataset = planted
    proof = forgetting.forget("tester", "asked for", user="Eve")
    assert next_data_set(home, "after") == set(others)
    assert {r["id"] for r in proof["records"]} == {*eve, bob} and proof["answers"] == 1
    assert proof["versions"] == versions and proof["datasets"] == [dataset] and proof["batches"] == ["000001"] and proof["pending"] == []
    assert proof["runs_with_copies"] == ["runs/flywheel/one", "runs/flywheel/two"] and len(proof["checked"]) == 2
    assert json.loads(store.read_bytes(store.join(settings().store, forgetting.PROOFS, f"{proof['id']}.json"))) == proof
    # Nothing of hers is left but tombstones: in the ledger, the segments, the batches, and MLflow.
    assert SECRET not in json.dumps([dict(e, at="") for e in ledger.list_events()]) + json.dumps(proof)
    lines = {line["id"]: line for line in sealed_lines()}
    assert set(lines) == {*eve, bob, *others}
    assert all(set(lines[i]) == {"id", "timestamp", "forgotten", "sha256"} for i in (*eve, bob)) and "correction" in lines[others[0]]
    folder = home / "store" / "feedback"
    assert not [p for p in (*folder.rglob("*"), *(home / "store" / "runs" / "feedback").rglob("*")) if p.is_file() and SECRET in p.read_text()]
    told = {a.assessment_id for t in registry.client().search_traces(locations=[assessments.experiment()]) for a in t.info.assessments}
    assert told == {f"{kind}-{i}" for i in others for kind in "ae"}
    assert ledger.list_events(1)[0]["action"] == "forget"
    # The same key again is not a way back in; nor is an answer of hers.
    with pytest.raises(ContractError, match="forgotten"):
        give(2, correction=f"{SECRET} again", user="Eve", answer=ledger.find(eve[1]).answer_id)
    with pytest.raises(NotFound, match="no such answer"):
        give(9, ledger.find(eve[0]).answer_id)


def test_the_policies_accepted_and_the_features_read_are_forgotten(learn):
    for who in ("Eve", "Ada"):
        policy.accept(who, "1")
        key = prompt_key(f"{who}'s question", "")
        ledger.add_answer(f"{who}'s question", "", "an answer", "1", who)
        features.record("test", [features.Read(datetime.now(UTC), *of, {}, {}) for of in (("user", who), ("prompt", key))])
    policy.accept("Bob", "1")
    proof = forgetting.forget("tester", "asked for", user="Eve")
    assert (proof["acceptances"], proof["features"]) == (1, 2)
    assert policy.accepted("Eve", "1") is None and policy.accepted("Ada", "1")
    assert {key for _, _, key, _ in features.reads(datetime(2026, 1, 1, tzinfo=UTC))} == {"Ada", prompt_key("Ada's question", "")}
    assert forgetting.forget("tester", "asked for", user="Bob")["acceptances"] == 1  # who did nothing else, too


def test_a_forgetting_that_was_killed_is_finished_by_calling_it_again(planted, home, monkeypatch):
    eve, _, others, versions, _ = planted
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "settle", lambda: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            forgetting.forget("tester", "asked for", user="Eve")
    proof = forgetting.forget("another", "again", user="Eve")
    assert proof["versions"] == versions and {r["id"] for r in proof["records"]} > set(eve)
    assert next_data_set(home, "after") == set(others)


def test_mlflow_away_is_told_later(planted, home, monkeypatch):
    eve, *_ = planted
    real = assessments._call

    def away(method, path, *rest, **headers):
        if "2.0/mlflow/experiments" in path:
            raise assessments.TransientError("MLflow does not answer")
        return real(method, path, *rest, **headers)

    with monkeypatch.context() as patch:
        patch.setattr(assessments, "_call", away)
        proof = forgetting.forget("tester", "asked for", record=eve[1])
    assert proof["pending"] == [eve[1]]
    assert assessments.log_pending() == 1
    told = {a.assessment_id for t in registry.client().search_traces(locations=[assessments.experiment()]) for a in t.info.assessments}
    assert f"a-{eve[1]}" not in told and f"e-{eve[1]}" not in told and f"a-{eve[0]}" in told


def test_what_was_kept_long_enough_is_forgotten(learn, home):
    old, young = give(1, correction="old words"), give(2, correction="young words")
    curate(home)
    with ledger.transaction() as db:
        db.execute(sa.update(feedback).where(feedback.c.id == old).values(keep_until=datetime.now(UTC) - timedelta(days=1)))
    proof = forgetting.forget("housekeeping", "kept long enough", expired=True)
    assert [r["id"] for r in proof["records"]] == [old] and [e.feedback_ids for e in published()] == [(young,)]
    assert forgetting.forget("housekeeping", "kept long enough", expired=True)["records"] == []


def test_a_name_that_nothing_has(learn):
    ask()
    with pytest.raises(NotFound, match="nothing of this name"):
        forgetting.forget("tester", "x", user="Nobody")
    with pytest.raises(NotFound, match="nothing of this name"):
        forgetting.forget("tester", "x", record="nothing")


def test_what_an_operator_types(planted):
    eve, _, _, versions, _ = planted
    run = CliRunner()
    traced = run.invoke(cli.app, ["trace", eve[0], "--json"])
    assert traced.exit_code == 0 and json.loads(traced.stdout)["learned_by"] == versions
    assert "learned_by" in run.invoke(cli.app, ["trace", "000001"]).stdout
    done = run.invoke(cli.app, ["forget", "--user", "Eve", "--reason", "asked for"])
    assert done.exit_code == 0 and f"2: {', '.join(versions)}" in done.stdout and "proof:" in done.stdout
    for wrong in (["forget"], ["forget", "--user", "Eve", "--expired"], ["trace", "nothing"]):
        assert run.invoke(cli.app, wrong).exit_code == 2


def test_whom_a_backup_brought_back_is_forgotten_again_but_not_what_they_said_since(learn, home):
    one = give(1, ask(1, user="Eve"), user="Eve", correction="before")
    kept = give(2, ask(2, user="Ada"), user="Ada")
    with ledger.transaction() as db:
        before = db.execute(sa.text("select body, prompt from feedback join answers on answers.id = answer_id where feedback.id = :id"), {"id": one}).one()
    proof = forgetting.forget("tester", "asked for", user="Eve")
    later = give(3, ask(3, user="Eve"), user="Eve")
    assert forgetting.again("housekeeping") == []
    with ledger.transaction() as db:  # as the restored database has it
        db.execute(sa.update(feedback).where(feedback.c.id == one).values(body=before.body, sha256=None, withheld=None))
        answer = db.execute(sa.select(feedback.c.answer_id).where(feedback.c.id == one)).scalar_one()
        db.execute(sa.text("""update answers set prompt = 'question 1', "user" = 'Eve', forgotten = null where id = :id"""), {"id": answer})
    done = CliRunner().invoke(cli.app, ["forget", "--again"])
    assert done.exit_code == 0 and "1 forgettings were done again" in done.output, done.output
    assert ledger.find(one).body == {} and ledger.find(one).prompt == ""
    assert ledger.find(later).body and ledger.find(kept).body
    assert forgetting.again("housekeeping") == [] and proof["id"] in ledger.list_events(1, "forget")[0]["detail"]["reason"]
