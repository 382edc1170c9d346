"""Start a turn when no recent one was made of these sources and this config.

    python -m tasks.changes --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/changes

What the DAG `changes` runs, where FLYWHEEL_CHANGES gives it a schedule. It keeps no state: what the newest turns were made of is in their
manifests, so a look that was missed, doubled or killed changes nothing. Feedback is not looked at: `feedback` and `watch` do that.
"""

from __future__ import annotations

from flywheel import manifest, stage, store, watch
from flywheel.airflow_api import AirflowApi
from flywheel.manifest import Artifact
from flywheel.turn import DAG
from tasks import ingest

Made = tuple[list[str], str]


def made_of(run: str) -> Made | None:
    """The sources by content, and the config's digest, of a turn that has ended; None for one that got to neither."""
    if not all(store.exists(manifest.manifest_uri(run, name)) for name in ("ingest", "summary")):
        return None
    read = manifest.read_for(run, "ingest").inputs
    return _sources(read), str(manifest.read_for(run, "summary").metrics.get("config", ""))


def _sources(inputs: dict[str, Artifact]) -> list[str]:
    return sorted(artifact.sha256 for name, artifact in inputs.items() if name.startswith("source."))


def run(ctx: stage.Context) -> None:
    """Look, compare, start."""
    now = _sources(ingest.identities(ctx.config.ingest)), ctx.config.digest()
    turns = {run: made_of(run) for run in watch.newest_runs()}
    if same := next((run for run, made in turns.items() if made == now), ""):
        return ctx.skip(f"{same.rsplit('/', 1)[-1]} was made of these sources and this config")
    what = "the sources" if any(made and made[1] == now[1] for made in turns.values()) else "the config"
    api = AirflowApi()
    started = watch.start_once(api, api.runs(DAG), f"changes_{store.sha256_text(*now[0], now[1])[:12]}")
    if not started:
        return ctx.skip(f"{what} changed, but a turn is on its way, or {DAG} is paused: the next look decides")
    ctx.metrics |= {"changed": what, "run": started}
    return ctx.say(f"{what} changed: {started}")


STAGE = stage.Stage("changes", run, extra=stage.request)
if __name__ == "__main__":
    stage.main(STAGE)
