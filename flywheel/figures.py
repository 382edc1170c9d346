"""The flywheel's own figures: what the manifests, the registry, the ledger, the week's spending and the disk say now.

Each function is one source of `flywheel.exporter` and returns gauges; by hand: `curl $FLYWHEEL_EXPORTER_URL/metrics`.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from datetime import datetime

import sqlalchemy as sa
from prometheus_client.core import GaugeMetricFamily

from flywheel import config, manifest, registry, spend, store
from flywheel.errors import ContractError
from flywheel.ledger import schema
from flywheel.manifest import Manifest
from flywheel.settings import settings

PARTS = ("records", "train", "heldout", "reserve", "quarantine")
RUNS = 10  # the newest of each DAG: what came before is history, which Prometheus keeps
Families = list[GaugeMetricFamily]
Read = Callable[[], Families]


def figure(name: str, text: str, values: float | Mapping[str, float] | None, label: str = "") -> GaugeMetricFamily:
    """A gauge: one value, one for each value of a label, or none yet."""
    family = GaugeMetricFamily(f"flywheel_{name}", text, labels=[label] if label else [])
    found = values if isinstance(values, Mapping) else {} if values is None else {"": values}
    for key, value in found.items():
        family.add_metric([key] if label else [], value)
    return family


def newest_runs(dag: str) -> list[str]:
    """The folders of a DAG's newest runs, oldest first: their ids end in the moment they were made for."""
    root = store.join(settings().store, "runs", dag)
    names = sorted(store.list_names(root), key=lambda name: name.partition("__")[2])
    return [store.join(root, name) for name in names[-RUNS:]]


def manifests(run: str) -> dict[str, Manifest]:
    """The finished stages of a run."""
    found = {}
    for name in store.list_names(run):
        try:
            found[name] = manifest.read_for(run, name)
        except (ContractError, OSError):  # it runs, failed, or is no stage
            continue
    return found


def over(run: Mapping[str, Manifest]) -> bool:
    """Whether a turn has ended: rolled out, or skipped somewhere."""
    return "rollout" in run or any(m.outcome == "skipped" for m in run.values())


def turns() -> Families:
    """What the newest runs' manifests say."""
    runs = [manifests(folder) for folder in newest_runs("flywheel")]
    latest = {m.stage: m for run in runs for m in sorted(run.values(), key=lambda m: m.ended)}
    ended = max((run for run in runs if over(run)), key=lambda run: max(m.ended for m in run.values()), default={})
    gate, evaluated, curated = ended.get("gate"), latest.get("evaluate"), [m for folder in newest_runs("feedback") for m in manifests(folder).values()]
    verdict = "" if not ended else str(gate.metrics.get("verdict", "skipped")) if gate else "skipped"
    scores = {} if evaluated is None else {key: float(v) for key, v in evaluated.metrics.items() if isinstance(v, int | float) and "." in key}
    used = next((m for m in reversed(curated) if m.outcome == "done"), None)
    drift = _drift(latest.get("tokenize"))
    return [
        figure("turn_finished_timestamp_seconds", "When the last turn ended", max((m.ended.timestamp() for m in ended.values()), default=None)),
        figure("turn_verdict", "The verdict of the last turn that ended", {v: float(v == verdict) for v in ("promote", "hold", "refuse", "skipped")}, "verdict"),
        figure("champion_check_timestamp_seconds", "When a challenger was last compared with the champion",
               evaluated.ended.timestamp() if evaluated and evaluated.outcome == "done" else None),
        figure("evaluation_score", "Figures of the last comparison, e.g. log_loss.champion", scores, "figure"),
        figure("stage_finished_timestamp_seconds", "When each stage last finished", {s: m.ended.timestamp() for s, m in latest.items()}, "stage"),
        figure("stage_wall_seconds", "How long it took", {s: m.cost.wall_seconds for s, m in latest.items()}, "stage"),
        figure("stage_cpu_seconds", "Processor time it took", {s: m.cost.cpu_seconds for s, m in latest.items()}, "stage"),
        figure("turn_money", "What the last turn cost", sum(m.cost.money for m in ended.values()) if ended else None),
        figure("dataset_records", "Records in each output of the last clean", _rows(latest.get("clean")), "part"),
        figure("quarantine_ratio", "Share of records that the last run of a stage rejected",
               {s: rows["quarantine"] / max(1.0, sum(rows.values())) for s, m in latest.items() if "quarantine" in (rows := _rows(m))}, "stage"),
        figure("train_final_loss", "Nats a token at the end of the last training", _number(latest.get("train"), "final_loss")),
        figure("train_tokens", "Tokens of the last training", _number(latest.get("train"), "tokens")),
        figure("batch_records", "Where the records of the last batch of feedback went",
               {} if used is None else {k: float(v) for k, v in used.metrics.items() if isinstance(v, int | float)}, "went"),
        figure("data_drift", "How far the data has moved from the last accepted version, by measure", {m: f for m, (f, _) in drift.items()}, "measure"),
        figure("data_drift_limit", "From where that is too far", {m: limit for m, (_, limit) in drift.items()}, "measure"),
    ]  # fmt: skip


def _rows(found: Manifest | None) -> dict[str, float]:
    """How many records each part of a stage's output has, the rejected ones too."""
    return {name: float(a.rows) for name, a in found.outputs.items() if name in PARTS and a.rows is not None} if found else {}


def _drift(found: Manifest | None) -> dict[str, tuple[float, float]]:
    """Figure and limit of each drift check that was made before training."""
    if found is None or "checks" not in found.outputs:
        return {}
    checks = json.loads(store.read_bytes(found.outputs["checks"].location))
    return {c["name"].removesuffix("_drift"): (c["figure"], c["limit"]) for c in checks if c["name"].endswith("_drift") and c["figure"] is not None}


def _number(found: Manifest | None, metric: str) -> float | None:
    value = found.metrics.get(metric) if found else None
    return float(value) if isinstance(value, int | float) else None


def training() -> Families:
    """When the newest unfinished training last saved its state, or began."""
    moments: list[datetime] = []
    for run in newest_runs("flywheel")[-2:]:
        folder = store.join(run, "train")
        if not store.exists(manifest.manifest_uri(run, "train")):
            saved = store.glob(store.join(folder, "checkpoints", "*", "state.pt"))
            began = [store.join(folder, name) for name in store.list_names(folder) if name.startswith("attempt-")]
            moments += [store.modified(uri) for uri in [*saved, *began]]
    return [figure("training_progress_timestamp_seconds", "When a training that has not finished last saved its state, or began",
                   max((moment.timestamp() for moment in moments), default=None))]  # fmt: skip


def champion() -> Families:
    """What the registry wants served."""
    known, number = registry.versions(), registry.alias("champion")
    served = next((v for v in known if v.version == number), None)
    verdicts = {verdict: float(sum(v.verdict == verdict for v in known)) for verdict in ("promote", "hold", "refuse")}
    return [
        figure("champion_version", "The version the registry wants served; 0 is the base model", float(number or 0)),
        figure(
            "champion_created_timestamp_seconds", "When the champion was registered", datetime.fromisoformat(served.created).timestamp() if served else None
        ),
        figure("champion_score", "The champion's figures on the held-out suite", served.metrics if served else None, "metric"),
        figure("champion_money", "What the champion's turn cost", served.cost.money if served else None),
        figure("versions", "Registered versions", verdicts, "verdict"),
    ]


def feedback() -> Families:
    """What waits in the ledger. A correction that may be used counts as usable; a thumb alone teaches nothing yet."""
    table = schema.feedback
    kept = table.c.withheld.is_(None)
    free = sa.and_(kept, table.c.batch.is_(None))
    usable = sa.and_(free, table.c.body["consent"].astext == "true", sa.func.coalesce(sa.func.trim(table.c.body["correction"].astext), "") != "")
    with schema.transaction() as db:
        row = db.execute(sa.select(
            sa.func.count().filter(kept), sa.func.count().filter(free), sa.func.count().filter(usable), sa.func.min(table.c.at).filter(usable),
        ).select_from(table)).one()  # fmt: skip
        open_batches = db.execute(sa.select(sa.func.count()).where(~schema.batches.c.finished)).scalar_one()
    stored, waiting, ready, oldest = row
    return [
        figure("feedback_records", "Feedback stored: claimed by a batch, or waiting", {"claimed": stored - waiting, "waiting": waiting}, "state"),
        figure("feedback_usable_waiting", "Waiting corrections that may be used", ready),
        figure("feedback_oldest_timestamp_seconds", "When the oldest of them was given", oldest.timestamp() if oldest else None),
        figure("feedback_open_batches", "Batches that a curation claimed and has not finished", open_batches),
    ]


def spending() -> Families:
    """This week's cost beside its budget; no budget is +Inf."""
    stages, budget = spend.by_stage(), config.load(settings().config).train
    hours, money = budget.weekly_gpu_hours, budget.weekly_money
    return [
        figure("week_money", f"Spent this ISO week, in {settings().currency}", {s: c.money for s, c in stages.items()}, "stage"),
        figure("week_cpu_seconds", "Processor time this ISO week", {s: c.cpu_seconds for s, c in stages.items()}, "stage"),
        figure("week_gpu_seconds", "GPU time this ISO week", {s: c.gpu_seconds for s, c in stages.items()}, "stage"),
        figure("week_budget_money", "What a week may cost", float("inf") if money is None else money),
        figure("week_budget_gpu_seconds", "GPU time a week may use", float("inf") if hours is None else hours * 3600),
    ]


def disk() -> Families:
    """Room where the store and the caches are; the store's size, when it is a folder."""
    root = settings().store
    places = {"home": settings().home, **({"store": store.local_path(root)} if store.is_local(root) else {})}
    usage = {name: shutil.disk_usage(path) for name, path in places.items() if path.exists()}
    size = sum(f.stat().st_size for f in places["store"].rglob("*") if f.is_file()) if "store" in usage else None
    return [
        figure("disk_bytes", "Size of the disk", {name: u.total for name, u in usage.items()}, "place"),
        figure("disk_free_bytes", "Room on it", {name: u.free for name, u in usage.items()}, "place"),
        figure("store_bytes", "Size of the object store, when it is a folder", size),
    ]


SOURCES: dict[str, tuple[Read, float]] = {  # and for how many seconds what it said is good enough
    "manifests": (turns, 30), "training": (training, 30), "registry": (champion, 10), "ledger": (feedback, 10), "spending": (spending, 30), "disk": (disk, 120),
}  # fmt: skip
