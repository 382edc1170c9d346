"""Versions in a real registry, with packages that can be loaded."""

from flywheel import manifest, registry
from flywheel.manifest import Artifact
from flywheel.registry import TAG, Version
from flywheel.settings import settings

NOTHING = Artifact(uri="x", sha256="0" * 64, bytes=0)


def two_versions(base, adapter, folder):
    """Versions 1 and 2 on this base, whose adapters answer alike; 1 is the champion."""
    client, model = registry.client(), settings().model_name
    experiment = client.create_experiment(model)
    client.create_registered_model(model)
    for number in (1, 2):
        package = folder / f"package {number}"
        (package / "adapter").mkdir(parents=True)
        for file in adapter.iterdir():
            (package / "adapter" / file.name).write_bytes(file.read_bytes())
        (package / "adapter" / "README.md").write_text(f"version {number}")
        run = client.create_run(experiment).info
        client.log_artifacts(run.run_id, str(package), "model")
        version = Version(
            base=str(base), prompt="auto", adapter=manifest.describe(package / "adapter", "x"), package=manifest.describe(package, "x"), dataset=f"d{number}",
            trained_ids=NOTHING, suites=NOTHING, reference=number - 1 or None, parent=number - 1 or None, verdict="promote", reason="better", run_dir="runs/x",
        )  # fmt: skip
        client.create_model_version(model, f"{run.artifact_uri}/model", run.run_id, tags={TAG: version.model_dump_json(exclude={"version"})})
    registry.promote(1, "test", "first")
