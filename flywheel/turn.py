"""One turn through Airflow, wherever it runs: start it, follow it to its end, read what it measured and decided.

    python -m flywheel turn --config my.yaml --set train.epochs=2

On a laptop that is all. From elsewhere it needs FLYWHEEL_AIRFLOW_URL, FLYWHEEL_STORE, and credentials for both (flywheel/airflow_api.py).
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from flywheel import config, manifest, store
from flywheel.airflow_api import AirflowApi
from flywheel.errors import ContractError, DataError, NotFound, TransientError
from flywheel.settings import settings

DAG = "flywheel"
STAGES = ("ingest", "clean", "tokenize", "dataset", "train", "parity", "evaluate", "gate", "register", "rollout")
ENDED = ("success", "skipped", "failed", "upstream_failed", "removed")
PARSE_SECONDS = 180.0  # Airflow reads its DAG files a while after its first start
POLL_SECONDS = 3.0
AT_ONCE = 5  # seconds within which the same request is the same run
console = Console(highlight=False)


def address(run_id: str) -> str:
    """The run's page in Airflow."""
    return f"{settings().airflow_url}/dags/{DAG}/runs/{quote(run_id)}"


def freeze(path: str, changes: list[str] | None = None) -> str:
    """Validate a config here, and keep it in the store under its content's hash, where every stage can read it; returns its address.

    Raises ContractError for a config that is wrong and for a store that cannot be reached.
    """
    config.load(path, changes or ())
    text = yaml.safe_dump(config.load(path).model_dump(mode="json", by_alias=True, exclude_unset=True), sort_keys=False)
    uri = store.join(settings().store, "configs", f"{store.sha256_text(text)[:16]}.yaml")
    store.write_bytes(uri, f"# {path.rsplit('/', 1)[-1]}, as it was when a turn was started with it.\n{text}".encode())
    return uri


def find(api: AirflowApi, dag: str) -> dict[str, Any]:
    """The DAG, once Airflow has read its file. Raises ContractError for one that it cannot read or does not have."""
    until = time.monotonic() + PARSE_SECONDS
    while (found := api.dag(dag)) is None:
        if errors := api.import_errors():
            raise ContractError(f"Airflow cannot read it: {errors[0]}", where="dags/", mend="Mend that file; Airflow reads it again by itself.")
        if time.monotonic() > until:
            mend = "Is this the flywheel's Airflow (FLYWHEEL_AIRFLOW_URL), and does its DAG processor run?"
            raise NotFound(f"Airflow at {settings().airflow_url} has no such DAG", where=dag, mend=mend)
        time.sleep(1)
    return found


def chosen(conf: dict[str, Any]) -> dict[str, Any]:
    """What a run was asked for beyond what the form has by itself."""
    return {key: value for key, value in conf.items() if value not in (None, "", [], "auto", "config")}


def start(conf: dict[str, Any], *, unpause: bool = True) -> str:
    """Start a run by hand; returns its id. Raises ContractError for a paused DAG that is to stay so: the run would wait for ever.

    Two triggers at once make one run: one that asks for the same and has not begun yet is joined.
    """
    api = AirflowApi()
    if find(api, DAG)["is_paused"]:
        if not unpause:
            raise ContractError("this DAG is paused, so a run would not begin", where=DAG, mend="Unpause it in Airflow, or find out who paused it.")
        api.unpause(DAG)
    asked = chosen(conf)
    for run in api.runs(DAG):
        if run["state"] == "queued" and run["run_type"] == "manual" and chosen(run["conf"]) == asked:
            return str(run["dag_run_id"])
    now, what = datetime.now(UTC), store.sha256_text(json.dumps(asked, sort_keys=True))[:8]
    return api.trigger(DAG, conf, f"manual__{now.replace(microsecond=0, second=now.second // AT_ONCE * AT_ONCE).isoformat()}_{what}")


def follow(run_id: str, seconds: float) -> str:
    """Follow a run to its end, telling of each stage; returns the run's folder.

    Raises DataError when it fails, TransientError when it has not ended after so many seconds; it goes on then.
    """
    api = AirflowApi()
    with Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), console=console) as bar:
        line = bar.add_task(run_id, total=None)
        until = time.monotonic() + seconds
        told: set[str] = set()
        while time.monotonic() < until:
            state = api.run(DAG, run_id)["state"]
            tasks = api.tasks(DAG, run_id)
            ended = [t for t in tasks if t["state"] in ENDED]
            for task in ended:
                if task["task_id"] not in told:
                    told.add(task["task_id"])
                    console.print(f"  {task['task_id']:10} {task['state']:8} {task['duration'] or 0:6.0f} s")
            doing = next((f"{t['task_id']} {t['state']}" for t in tasks if t["state"] not in (None, *ENDED)), state)
            bar.update(line, total=len(tasks), completed=len(ended), description=f"{run_id}  {doing}")
            if state == "success":
                return manifest.run_dir(DAG, run_id, settings().store)
            if state == "failed":
                failed = ", ".join(t["task_id"] for t in tasks if t["state"] == "failed") or "no task: it was stopped"
                raise DataError(f"the run failed at {failed}", where=run_id, mend=f"Its log is at {address(run_id)}.")
            time.sleep(POLL_SECONDS)
    raise TransientError(f"the run did not end within {seconds:.0f} s and goes on", where=run_id, mend=f"Look at it in Airflow: {address(run_id)}.")


def skipped(run: str) -> str:
    """Why a turn ended before its gate although nothing was wrong, e.g. for want of new data; empty when it did not."""
    for stage in STAGES[: STAGES.index("gate")]:
        found = manifest.read_for(run, stage)
        if found.outcome == "skipped":
            return f"{stage}: {found.reason}"
    return ""


def results(run: str) -> dict[str, Any]:
    """What a turn measured and decided."""
    manifests = {stage: manifest.read_for(run, stage) for stage in STAGES[:-1]}
    if store.exists(manifest.manifest_uri(run, "rollout")):  # not there when a person said no
        manifests["rollout"] = manifest.read_for(run, "rollout")
    gate, registered, rollout = manifests["gate"], manifests["register"].metrics, manifests.get("rollout")
    cache = settings().home / "cache"
    return {
        "run_dir": store.relative(run),
        "verdict": json.loads(gate.outputs["verdict"].fetch(cache).read_text()),
        "metrics": json.loads(manifests["evaluate"].outputs["report"].fetch(cache).read_text())["metrics"],
        "page": gate.outputs["page"].location,
        "version": registered.get("version"),
        "registry_page": registered.get("page"),
        "rollout": rollout.outcome if rollout else "skipped",
        "rollout_reason": rollout.reason if rollout else "nobody approved it",
        "seconds": {stage: m.cost.wall_seconds for stage, m in manifests.items()},
        "money": sum(m.cost.money for m in manifests.values()),
        "currency": manifests["train"].cost.currency,
        "code": manifests["train"].code_digest,
        "image": manifests["train"].image,
    }
