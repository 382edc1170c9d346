"""Package the challenger and register it in MLflow: adapter, model card, checksums, report. The refused ones, too: for the audit.

    python -m tasks.register --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

Output: `card` (Markdown); metric: `version`.
"""

from __future__ import annotations

import json
import shutil
import time
from datetime import UTC, datetime
from typing import Any

from flywheel import registry, stage, store
from flywheel.manifest import Artifact
from flywheel.registry import TAG, Version
from flywheel.settings import settings
from tasks.evaluate import reference_of
from tasks.train import parent_of

RUN_TAG = "flywheel.run_dir"


def describe(ctx: stage.Context) -> Version:
    """What the registry keeps of this challenger."""
    train, evaluate = ctx.upstream("train"), ctx.upstream("evaluate")
    verdict = json.loads(ctx.fetch("gate.verdict").read_bytes())
    return Version(
        base=ctx.config.model.base, prompt=ctx.config.model.prompt, adapter=train.outputs["adapter"], dataset=train.inputs["tokenize.train"].sha256,
        trained_ids=train.outputs["ids"], suite=evaluate.outputs["suite"], reference=reference_of(evaluate.inputs), parent=parent_of(train.inputs),
        verdict=verdict["verdict"], reason=verdict["reason"], run_dir=store.relative(ctx.run_dir), created=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def card(ctx: stage.Context, version: Version, report: dict[str, Any]) -> str:
    """The model card, in the layout that model hubs read."""
    conf = ctx.config
    sources = sorted({(s.name or s.path.rsplit("/", 1)[-1] or s.kind, s.licence, s.consent) for s in conf.ingest.sources})
    metrics = "\n".join(
        f"| {n} | {m['champion']:.4g} | {m['challenger']:.4g} | {m['gain']:+.4f} [{m['interval'][0]:+.4f}, {m['interval'][1]:+.4f}] |"
        for n, m in report["metrics"].items()
    )
    train = ctx.upstream("train")
    return f"""---
base_model: {version.base}
library_name: peft
tags: [flywheel, {conf.train.method}]
---
# {settings().model_name}

An adapter of {version.base}, trained from {f"version {version.parent}" if version.parent else "the base model"} by run `{version.run_dir}`.

**Verdict: {version.verdict}.** {version.reason}

## Data
Data set `{version.dataset[:16]}`: {train.metrics.get("new_examples")} new and {train.metrics.get("replayed")} earlier examples.

| source | licence | consent |
|---|---|---|
{chr(10).join(f"| {name} | {licence} | {consent} |" for name, licence, consent in sources)}

## Evaluation
{report["examples"]} frozen examples (suite `{version.suite.sha256[:16]}`); champion: {f"version {version.reference}" if version.reference else "the base model"}.

| metric | champion | this model | gain (95 %) |
|---|---|---|---|
{metrics}

## Training
`{json.dumps(conf.train.model_dump())}`
{train.cost.cpu_seconds:.0f} CPU-seconds, {train.cost.gpu_seconds:.0f} GPU-seconds, {train.cost.money:.4f} {train.cost.currency}.

## Limits
{conf.register_.limits} Contact: {conf.register_.contact}.
"""


def checksums(adapter: Artifact) -> str:
    """A SHA256SUMS file of the adapter's files."""
    return "".join(f"{digest}  adapter/{name}\n" for name, digest in sorted((adapter.files or {}).items()))


def run(ctx: stage.Context) -> None:
    """Upload once, register once: a retry finds what an attempt before it left."""
    version = describe(ctx)
    report = json.loads(ctx.fetch("evaluate.report").read_bytes())
    package = ctx.path("package")
    shutil.copytree(ctx.fetch("train.adapter"), package / "adapter")
    (package / "README.md").write_text(card(ctx, version, report))
    (package / "SHA256SUMS").write_text(checksums(version.adapter))
    number = publish(ctx, version, package, report)
    ctx.say(f"registered as {settings().model_name} version {number} ({version.verdict})")
    ctx.output("card", package / "README.md")
    ctx.metrics |= {"version": number, "verdict": version.verdict}


def publish(ctx: stage.Context, version: Version, package: Any, report: dict[str, Any]) -> int:
    """The MLflow run and model version of this challenger. Raises TransientError when MLflow does not answer."""
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException

    client, name = registry.client(), settings().model_name
    try:
        done = next((v.version for v in registry.versions() if v.run_dir == version.run_dir and v.adapter.sha256 == version.adapter.sha256), None)
        if done:
            return done
        found = client.get_experiment_by_name(name)
        experiment = found.experiment_id if found else client.create_experiment(name)
        earlier = client.search_runs([experiment], f"tags.`{RUN_TAG}` = '{version.run_dir}'", max_results=1)
        run_id = (
            earlier[0].info.run_id
            if earlier
            else client.create_run(experiment, run_name=version.run_dir.rsplit("/", 1)[-1], tags={RUN_TAG: version.run_dir}).info.run_id
        )
        params = [Param(f"train.{key}", str(value)) for key, value in ctx.config.train.model_dump().items()]
        now = int(time.time() * 1000)
        points = [Metric("loss", point["loss"], now, int(point["step"])) for point in map(json.loads, ctx.fetch("train.losses").read_text().splitlines())]
        for key, measured in report["metrics"].items():
            points += [Metric(key, measured["challenger"], now, 0), Metric(f"{key}.gain", measured["gain"], now, 0)]
        for start in range(0, len(points), 1000):  # the most that one call takes
            client.log_batch(run_id, metrics=points[start : start + 1000], params=params if start == 0 else [])
        client.log_artifacts(run_id, str(package), "model")
        client.log_artifact(run_id, str(ctx.fetch("evaluate.plot")), "report")
        client.log_artifact(run_id, str(ctx.fetch("evaluate.report")), "report")
        source = f"{client.get_run(run_id).info.artifact_uri}/model"
        if not client.search_registered_models(f"name='{name}'"):
            client.create_registered_model(name, description="Versions of this flywheel; the alias champion is what is served.")
        tags = {TAG: version.model_dump_json(exclude={"version"}), "verdict": version.verdict}
        created = client.create_model_version(name, source, run_id, tags=tags, description=version.reason)
        client.set_terminated(run_id)
        return int(created.version)
    except MlflowException as error:
        raise registry.unreachable(error) from error


STAGE = stage.Stage("register", run, needs=("gate", "evaluate", "train"))
if __name__ == "__main__":
    stage.main(STAGE)
