"""The flywheel's story for people: which version was better than which, what users made of them, the last turn, and the data.

Read from the registry, the manifests and the ledger. `GET /v1/quality` gives it, the page shows it.
"""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from pydantic import BaseModel

from flywheel import config, datasets, figures, manifest, registry, store, turn
from flywheel.errors import ContractError
from flywheel.ledger.schema import answers, feedback, transaction
from flywheel.manifest import Manifest
from flywheel.settings import settings

NEWEST = 30  # versions and data sets


class Figure(BaseModel):
    """One figure of a version on the frozen held-out questions, beside the champion of its day on the same ones."""

    value: float
    champion: float
    gain: float
    low: float
    high: float


class Point(BaseModel):
    """A version: when it came, what the gate said, and its figures. A positive gain is better, with its 95 % interval."""

    version: int
    created: str
    verdict: str
    reason: str
    champion: bool
    figures: dict[str, Figure]


class Trend(BaseModel):
    """What people said on one day of one version's answers, and how they tagged them."""

    day: str
    version: str
    answers: int = 0
    up: int = 0
    down: int = 0
    corrected: int = 0
    tags: dict[str, int] = {}


class Rule(BaseModel):
    """A rule of the gate, and what it found."""

    name: str
    outcome: str
    text: str


class Turn(BaseModel):
    """The last turn that ended."""

    run: str
    ended: datetime
    outcome: str
    story: str
    learned: dict[str, int]
    rules: list[Rule]
    money: float
    currency: str
    seconds: dict[str, float]
    links: dict[str, str]


class Data(BaseModel):
    """A data set version, and what was dropped on the way to it, by step."""

    id: str
    created: str
    records: dict[str, int]
    slices: dict[str, int]
    sources: dict[str, int]
    dropped: dict[str, int]


def champions() -> tuple[str, list[Point]]:
    """The gate's own metric, and the versions, the oldest first. Raises TransientError when the registry is away."""
    served = registry.alias("champion")
    points = []
    for v in reversed(registry.versions()[:NEWEST]):
        points.append(
            Point(version=v.version, created=v.created, verdict=v.verdict, reason=v.reason, champion=v.version == served, figures=_figures(v.run_dir))
        )
    return config.load(settings().config).gate.primary, points


def _figures(run: str) -> dict[str, Figure]:
    try:
        measured = _json(manifest.read_for(store.resolve(run), "evaluate"), "report")["metrics"]
    except (ContractError, OSError):  # housekeeping took the run's files
        return {}
    return {
        name: Figure(value=m["challenger"], champion=m["champion"], gain=m["gain"], low=m["interval"][0], high=m["interval"][1]) for name, m in measured.items()
    }


def _json(found: Manifest, output: str) -> Any:
    return json.loads(store.read_bytes(found.outputs[output].location))


def trends(days: float) -> list[Trend]:
    """By day and version, the oldest first; withheld records do not count."""
    since = datetime.now(UTC) - timedelta(days=days)
    day = sa.func.to_char(sa.func.timezone("UTC", answers.c.at), "YYYY-MM-DD").label("day")
    said = feedback.c.body
    thumb, rating = said["thumb"].as_string(), said["rating"].as_integer()
    key = (day, answers.c.model_version.label("version"))
    asked = sa.select(*key, sa.func.count().label("answers")).where(answers.c.at >= since).group_by(*key).order_by(*key)
    counted = sa.and_(answers.c.at >= since, feedback.c.withheld.is_(None))
    judged = sa.select(
        *key,
        sa.func.count().filter(sa.or_(thumb == "up", sa.and_(thumb.is_(None), rating >= 4))).label("up"),
        sa.func.count().filter(sa.or_(thumb == "down", sa.and_(thumb.is_(None), rating <= 2))).label("down"),
        sa.func.count(said["correction"].as_string()).label("corrected"),
    ).join_from(feedback, answers).where(counted).group_by(*key)  # fmt: skip
    tag = sa.func.jsonb_array_elements_text(said["tags"]).table_valued("value").render_derived()
    tagged = sa.select(*key, tag.c.value, sa.func.count().label("n")).select_from(feedback.join(answers).join(tag, sa.true()))
    with transaction() as db:
        found = {(row.day, row.version): Trend(day=row.day, version=row.version, answers=row.answers) for row in db.execute(asked)}
        for row in db.execute(judged):
            found[row.day, row.version] = found[row.day, row.version].model_copy(update={"up": row.up, "down": row.down, "corrected": row.corrected})
        for row in db.execute(tagged.where(counted).group_by(*key, tag.c.value)):
            found[row.day, row.version].tags[row.value] = row.n
    return list(found.values())


def last_turn() -> Turn | None:
    """The newest turn that ended, whatever its end; None before the first."""
    runs = [(folder, stages) for folder in figures.newest_runs(turn.DAG) if figures.over(stages := figures.manifests(folder))]
    if not runs:
        return None
    folder, stages = max(runs, key=lambda run: max(m.ended for m in run[1].values()))
    gate, registered = stages.get("gate"), stages.get("register")
    verdict = _json(gate, "verdict") if gate and "verdict" in gate.outputs else {}
    skipped = next((f"It ended at {m.stage}: {m.reason}" for m in stages.values() if m.outcome == "skipped" and not verdict), "")
    page = str(registered.metrics.get("page") or "") if registered else ""
    metrics = {name: stages[stage].metrics.get(name) for stage in ("ingest", "tokenize", "train") if stage in stages for name in LEARNED}
    return Turn(
        run=folder.rsplit("/", 1)[-1],
        ended=max(m.ended for m in stages.values()),
        outcome=verdict.get("verdict", "skipped"),
        story=verdict.get("paragraph", skipped),
        learned={LEARNED[name]: int(value) for name, value in metrics.items() if isinstance(value, int)},
        rules=[Rule(name=rule["name"], outcome=rule["outcome"], text=rule["text"]) for rule in verdict.get("rules", [])],
        money=sum(m.cost.money for m in stages.values()),
        currency=next(iter(stages.values())).cost.currency,
        seconds={name: stages[name].cost.wall_seconds for name in turn.STAGES if name in stages},
        links={"Report": page, "Data report": page.replace("/report/report.html", "/dataset/report.html")} if page.startswith("http") else {},
    )


LEARNED = {"read": "records read", "batches": "batches of feedback", "new_examples": "new examples learned", "replayed": "learned again", "tokens": "tokens"}


def data() -> list[Data]:
    """Data set versions, the newest first."""
    return [
        Data(
            id=v.id, created=v.created, records=v.records, slices=v.slices, sources={s.name: s.records for s in v.sources}, dropped=_dropped(v.run_dir)
        )
        for v in datasets.versions()[:NEWEST]
    ]  # fmt: skip


def _dropped(run: str) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for stage in ("ingest", "clean", "tokenize"):
        try:
            metrics = manifest.read_for(store.resolve(run), stage).metrics
        except (ContractError, OSError):
            continue
        found = {k.removeprefix("rejected."): v for k, v in metrics.items() if k.startswith("rejected.")} or {stage: metrics.get("rejected", 0)}
        counts.update({name: int(value) for name, value in found.items() if isinstance(value, int) and value})
    return dict(counts)
