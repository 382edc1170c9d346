"""Package the challenger and register it in MLflow: adapter, model card, checksums, report. The refused ones, too: for the audit.

    python -m tasks.register --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Output: `card` (Markdown); metric: `version`.
"""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel import datasets, ledger, lineage, manifest, registry, signing, stage, store
from flywheel.manifest import Artifact, Cost
from flywheel.registry import TAG, Version
from flywheel.settings import settings
from tasks import card
from tasks.evaluate import reference_of
from tasks.train import parent_of

if TYPE_CHECKING:
    from mlflow import MlflowClient

RUN_TAG = "flywheel.run_dir"
STAGES = ("ingest", "clean", "tokenize", "dataset", "train", "evaluate", "gate")


def cost(ctx: stage.Context) -> Cost:
    """Of every stage up to here; work that was found done already cost nothing again."""
    total = Cost(currency=settings().currency)
    for name in STAGES:
        total = total.plus(ctx.upstream(name).cost)
    return total


def describe(ctx: stage.Context, report: dict[str, Any]) -> Version:
    """What the registry keeps of this challenger, but for its package."""
    train, evaluate = ctx.upstream("train"), ctx.upstream("evaluate")
    verdict = json.loads(ctx.fetch("gate.verdict").read_bytes())
    return Version(
        base=ctx.config.model.base, prompt=ctx.config.model.prompt, adapter=train.outputs["adapter"], package=train.outputs["adapter"],
        dataset=train.inputs["tokenize.train"].sha256, trained_ids=train.outputs["ids"], suites=evaluate.outputs["next_suites"],
        reference=reference_of(evaluate.inputs), parent=parent_of(train.inputs), verdict=verdict["verdict"], reason=verdict["reason"],
        metrics={name: m["challenger"] for name, m in report["metrics"].items()}, cost=cost(ctx), code_digest=train.code_digest, image=train.image,
        run_dir=store.relative(ctx.run_dir), created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def checksums(adapter: Artifact) -> str:
    """A SHA256SUMS file of the adapter's files."""
    return "".join(f"{digest}  adapter/{name}\n" for name, digest in sorted((adapter.files or {}).items()))


def run(ctx: stage.Context) -> None:
    """Upload once, register once: a retry, or another process at the same time, finds what was done before."""
    from mlflow.exceptions import MlflowException

    report = json.loads(ctx.fetch("evaluate.report").read_bytes())
    version = describe(ctx, report)
    package = ctx.path("package")
    shutil.copytree(ctx.fetch("train.adapter"), package / "adapter")
    (package / "README.md").write_text(card.write(ctx, version, report))
    (package / "SHA256SUMS").write_text(checksums(version.adapter))
    version = version.model_copy(update={"package": manifest.describe(package, f"{version.run_dir}/register/package")})
    version = version.model_copy(update={"signature": signing.sign(version.signed_text())})
    try:
        with ledger.registry_lock():
            number, page = publish(ctx, version, package, report)
    except MlflowException as error:
        raise registry.unreachable(error) from error
    lineage.catch_up()  # what it learned can be asked for from here on
    ctx.say(f"registered as {settings().model_name} version {number} ({version.verdict})")
    ctx.output("card", package / "README.md")
    ctx.metrics |= {"version": number, "verdict": version.verdict, "money": version.cost.money, "page": page}


def publish(ctx: stage.Context, version: Version, package: Path, report: dict[str, Any]) -> tuple[int, str]:
    """The MLflow run, logged model and model version of this challenger, each made once; the version and the report's address."""
    client, name = registry.client(), settings().model_name
    done = next((v.version for v in registry.versions() if v.run_dir == version.run_dir and v.adapter.sha256 == version.adapter.sha256), None)
    run_id, experiment = the_run(client, version.run_dir)
    if done is None:
        log(ctx, client, run_id, version, report)
        model_id = the_model(client, experiment, run_id, version, package)
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name, description="Versions of this flywheel; the alias champion is what is served.")
        tags = {TAG: version.model_dump_json(exclude={"version"}), "verdict": version.verdict}
        created = client.create_model_version(
            name, f"models:/{model_id}", run_id, tags=tags, description=version.reason, await_creation_for=0, model_id=model_id
        )
        client.set_terminated(run_id)
        done = int(created.version)
    if version.verdict != "refuse" and done > (registry.alias("challenger") or 0):
        client.set_registered_model_alias(name, "challenger", str(done))
    return done, f"{settings().mlflow_url}/#/experiments/{experiment}/runs/{run_id}/artifacts/report/report.html"


def the_run(client: MlflowClient, run_dir: str) -> tuple[str, str]:
    """The MLflow run of a flywheel run, and its experiment."""
    name = settings().model_name
    found = client.get_experiment_by_name(name)
    experiment = found.experiment_id if found else client.create_experiment(name)
    earlier = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{run_dir}'", max_results=1)
    if earlier:
        return earlier[0].info.run_id, experiment
    return client.create_run(experiment, run_name=run_dir.rsplit("/", 1)[-1], tags={RUN_TAG: run_dir}).info.run_id, experiment


def the_model(client: MlflowClient, experiment: str, run_id: str, version: Version, package: Path) -> str:
    """The id of MLflow's logged model with the package's files; one that an earlier attempt left unfinished is finished."""
    name = f"{settings().model_name}-{version.adapter.sha256[:12]}"
    earlier = [m for m in client.search_logged_models([experiment], f"name = '{name}'") if m.source_run_id == run_id]
    tags = {RUN_TAG: version.run_dir, "verdict": version.verdict, "dataset": version.dataset, "parent": str(version.parent or "base")}
    model = earlier[0] if earlier else client.create_logged_model(experiment, name, run_id, tags=tags, model_type="lora-adapter")
    client.log_model_artifacts(model.model_id, str(package))
    client.finalize_logged_model(model.model_id, "READY")
    return str(model.model_id)


def log(ctx: stage.Context, client: MlflowClient, run_id: str, version: Version, report: dict[str, Any]) -> None:
    """Parameters, losses, figures, the data set, and the report's pages."""
    from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

    params = [Param(f"train.{key}", str(value)) for key, value in ctx.config.train.model_dump().items()]
    now = int(time.time() * 1000)
    curve = [json.loads(line) for line in ctx.fetch("train.losses").read_text().splitlines()]
    points = [Metric(key, point[key], now, int(point["step"])) for point in curve for key in ("loss", "norm", "rate")]
    for key, measured in report["metrics"].items():
        points += [Metric(key, measured["challenger"], now, 0), Metric(f"{key}.gain", measured["gain"], now, 0)]
    spent = version.cost
    points += [Metric("cost.money", spent.money, now, 0), Metric("cost.gpu_hours", spent.gpu_seconds / 3600, now, 0)]
    for start in range(0, len(points), 1000):  # the most that one call takes
        client.log_batch(run_id, metrics=points[start : start + 1000], params=params if start == 0 else [])
    used = datasets.Version.model_validate_json(ctx.fetch("dataset.version").read_bytes())
    source, counts = json.dumps({"uri": datasets.uri(used.id)}), json.dumps(used.records)
    entity = Dataset(settings().model_name, used.id[:36], "flywheel", source, profile=counts)
    client.log_inputs(run_id, [DatasetInput(entity, [InputTag("mlflow.data.context", "training")])])
    client.set_tag(run_id, "flywheel.dataset", used.id)
    for name in ("dataset.card", "dataset.report"):
        client.log_artifact(run_id, str(ctx.fetch(name)), "dataset")
    for name in ("evaluate.plot", "evaluate.report", "evaluate.answers", "gate.page", "gate.verdict"):
        if name in ctx.inputs:
            client.log_artifact(run_id, str(ctx.fetch(name)), "report")


STAGE = stage.Stage("register", run, needs=("gate", "evaluate", "train", "dataset"))
if __name__ == "__main__":
    stage.main(STAGE)
