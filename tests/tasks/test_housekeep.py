"""Retention on a real ledger: what has expired goes, the rest stays."""

import json
from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

from flywheel import config, ledger, stage, store
from flywheel.ledger import schema
from flywheel.settings import REPOSITORY, settings
from tasks import housekeep
from tests.flywheel.ledger.conftest import give


def test_what_was_kept_long_enough_is_forgotten_each_night(database, mlflow_server):
    old, young = give(1), give(2)
    with ledger.transaction() as db:
        db.execute(sa.update(schema.feedback).where(schema.feedback.c.id == old).values(keep_until=datetime.now(UTC) - timedelta(days=1)))
    conf = config.load(str(REPOSITORY / "config" / "flywheel.yaml"), ['housekeep.reason="the law"'])
    done = stage.execute(housekeep.STAGE, conf, store.join(settings().store, "runs", "housekeeping", "1"))
    assert (done.metrics["forgotten"], done.metrics["pending"]) == (1, 0)
    proof = json.loads(done.outputs["proof"].fetch(settings().home / "cache").read_bytes())
    assert [entry["id"] for entry in proof["records"]] == [old] and proof["reason"] == "the law"
    assert ledger.find(old).body == {} and ledger.find(young).body
    again = stage.execute(housekeep.STAGE, conf, store.join(settings().store, "runs", "housekeeping", "2"))
    assert again.metrics["forgotten"] == 0
