"""Runs, data sets and versions as the stages leave them, on a real registry."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from flywheel import manifest, registry, store
from flywheel.registry import TAG, Version
from flywheel.settings import settings
from tests.flywheel.ledger.conftest import write_examples


def write_run(home, name, examples):
    """A run whose clean stage kept these examples, and its data set's entry; the id of the data set."""
    folder = home / "store" / "runs" / "flywheel" / name
    train = write_examples(folder / "clean" / "attempt-1" / "train.jsonl", examples)
    now = datetime.now(UTC)
    done = manifest.Manifest(stage="clean", run_dir=f"runs/flywheel/{name}", attempt=1, cache_key=name, outputs={"train": train}, started=now, ended=now)
    manifest.write(done, str(folder))
    dataset = store.sha256_text(train.sha256)
    entry = {"id": dataset, "created": now.isoformat(), "run_dir": done.run_dir, "content": {"train": train.model_dump()}}
    store.write_bytes(store.join(settings().store, "datasets", f"{dataset}.json"), json.dumps(entry).encode())
    return dataset


@pytest.fixture
def learn(mlflow_server, database, home):
    """Registers a version that learned these examples, in a run that kept them; gives its number and its data set."""
    client, model = registry.client(), settings().model_name
    client.create_registered_model(model)

    def learn(name, kept, learned=None, parent=None):
        dataset = write_run(home, name, kept)
        ids = home / "store" / "runs" / "flywheel" / name / "ids.json"
        ids.write_text(json.dumps(sorted(e.id for e in (kept if learned is None else learned))))
        trained = manifest.describe(ids, store.relative(str(ids)))
        version = Version(
            base="b", prompt="auto", adapter=trained, package=trained, dataset="d", trained_ids=trained, suites=trained, reference=parent, parent=parent,
            verdict="promote", reason="because", run_dir=f"runs/flywheel/{name}", created=datetime.now(UTC).isoformat(),
        )  # fmt: skip
        return int(client.create_model_version(model, "s3://nowhere/adapter", tags={TAG: version.model_dump_json(exclude={"version"})}).version), dataset

    return learn
