"""On a real MLflow server and a real PostgreSQL."""

import pytest

from flywheel import ledger, manifest, registry
from flywheel.errors import ContractError, TransientError
from flywheel.registry import TAG, Version
from flywheel.settings import settings


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
        artifact = manifest.describe(adapter, f"runs/{name}/adapter")
        run = client.create_run(experiment).info
        client.log_artifacts(run.run_id, str(tmp_path / name), "model")
        version = Version(
            base="b", prompt="auto", adapter=artifact, dataset=dataset, trained_ids=artifact, suite=artifact, reference=reference, parent=parent,
            verdict=verdict, reason="because", run_dir=f"runs/{name}",
        )  # fmt: skip
        tags = {TAG: version.model_dump_json(exclude={"version"})}
        return int(client.create_model_version(model, f"{run.artifact_uri}/model", run.run_id, tags=tags).version)

    return register


def test_promote_roll_back_and_start_from_the_right_version(register, tmp_path):
    assert registry.champion() is None and registry.versions() == [] and registry.parent_for("d1") is None
    one = register("one", "d1")
    registry.promote(one, "test", "better")
    assert registry.parent_for("d2").version == one
    assert registry.parent_for("d1") is None  # learned before: it starts where it did then
    two = register("two", "d2", parent=one, reference=one)
    bad = register("bad", "d3", verdict="refuse", parent=one)
    registry.promote(two, "test", "better still")
    assert registry.champion().version == two and registry.alias("previous") == one
    assert registry.reference_for(registry.get(two).adapter.sha256).version == one
    assert registry.rollback("test", "it misbehaves") == one
    assert registry.champion().version == one
    with pytest.raises(ContractError, match="refused by the gate"):
        registry.rollback("test", "x", bad)
    with pytest.raises(ContractError, match="no such version"):
        registry.rollback("test", "x", 99)
    assert [e["action"] for e in ledger.list_events()] == ["promote"] * 3
    folder = registry.fetch(registry.get(two), tmp_path / "cache")
    assert (folder / "weights").read_text() == "two"
    (folder / "weights").write_text("evil")
    with pytest.raises(ContractError, match="weights"):
        registry.fetch(registry.get(two), tmp_path / "cache")


def test_a_dead_registry_is_transient(home, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_MLFLOW_URL", "http://127.0.0.1:1")
    settings.cache_clear()
    with pytest.raises(TransientError, match="make status"):
        registry.champion()
