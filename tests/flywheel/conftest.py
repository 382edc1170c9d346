"""Runs, data sets and versions as the stages leave them, on a real registry."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

from flywheel import manifest, registry, signing, store
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


@pytest.fixture
def register(mlflow_server, database, home, tmp_path):
    """Registers a version as the stage does, with a one-file adapter."""
    client = registry.client()
    model = settings().model_name
    experiment = client.create_experiment(model)
    client.create_registered_model(model)

    def register(name, dataset, verdict="promote", parent=None, reference=None):
        adapter = tmp_path / name / "adapter"
        adapter.mkdir(parents=True)
        (adapter / "weights").write_text(name)
        (tmp_path / name / "SHA256SUMS").write_text(f"sums of {name}")
        artifact = manifest.describe(adapter, f"runs/{name}/adapter")
        package = manifest.describe(tmp_path / name, f"runs/{name}")
        run = client.create_run(experiment).info
        client.log_artifacts(run.run_id, str(tmp_path / name), "model")
        version = Version(
            base="b", prompt="auto", adapter=artifact, package=package, dataset=dataset, trained_ids=artifact, suites=artifact, reference=reference, parent=parent,
            verdict=verdict, reason="because", run_dir=f"runs/{name}",
        )  # fmt: skip
        version = version.model_copy(update={"signature": signing.sign(version.signed_text())})
        tags = {TAG: version.model_dump_json(exclude={"version"})}
        return int(client.create_model_version(model, f"{run.artifact_uri}/model", run.run_id, tags=tags).version)

    return register
