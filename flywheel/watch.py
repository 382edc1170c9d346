"""What nobody may have noticed: a turn that is late, a stage that hangs, nights that did not run, a queue that grows, a question that is still open.

Looked for every few minutes by the DAG `watch`; each finding is a message that is sent once (`flywheel.notices`). A batch of feedback that no
turn has learned, with none on its way, starts one: a turn then hangs on no event of Airflow's, which may be lost while a DAG is paused or
busy (apache/airflow #49857, #56050). By hand: `python -m flywheel watch`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from flywheel import manifest, notices, store
from flywheel.airflow_api import AirflowApi
from flywheel.errors import FlywheelError
from flywheel.ledger import BATCHES, schema
from flywheel.notices import Kind
from flywheel.settings import settings
from flywheel.turn import DAG, address
from flywheel.watchdog import MARKER

RUNS = 10  # the newest that are looked into
NIGHTS = timedelta(days=14)  # how far back a night is missed
GRACE = timedelta(hours=26)  # a night's run begins a day after the night does, and may take a while to begin
ACTIVE = ("queued", "running")


@dataclass(frozen=True)
class Finding:
    """What people should know; the key is said once."""

    kind: Kind
    key: str
    facts: dict[str, Any]
    links: dict[str, str] = field(default_factory=dict)


def newest_runs() -> list[str]:
    """The folders of the newest turns, newest first: their ids end in the moment they were made for."""
    root = store.join(settings().store, "runs", DAG)
    names = sorted((name for name in store.list_names(root) if not name.startswith("backfill")), key=lambda name: name.partition("__")[2], reverse=True)
    return [store.join(root, name) for name in names[:RUNS]]


def late(runs: list[dict[str, Any]], asked: set[str], now: datetime) -> Iterator[Finding]:
    """Turns that run for longer than they should; one that waits for a person is not late."""
    for run in runs:
        if run["state"] != "running" or run["dag_run_id"] in asked or not run.get("start_date"):
            continue
        hours = (now - datetime.fromisoformat(run["start_date"])).total_seconds() / 3600
        if hours > settings().late_hours:
            why = f"It has run for {hours:.1f} hours; {settings().late_hours:g} are usual, and after {settings().stop_hours:g} it is stopped."
            facts = {"dag": DAG, "run": run["dag_run_id"], "stopped": False, "why": why}
            yield Finding("late", f"late {run['dag_run_id']}", facts, {"Run in Airflow": address(run["dag_run_id"])})


def missed(api: AirflowApi, now: datetime) -> Iterator[Finding]:
    """Nights without a run, as Airflow itself would make up for them."""
    first = max(now - NIGHTS, datetime.fromisoformat(settings().first_night).replace(tzinfo=UTC))
    if first >= now - GRACE:
        return
    nights = sorted(night[:10] for night in api.nights(DAG, first, now - GRACE))
    if nights:
        facts = {"nights": nights, "command": f"python -m flywheel backfill {nights[0]} {nights[-1]}"}
        yield Finding("missed", f"missed {nights[-1]}", facts)


def hung(runs: list[str]) -> Iterator[Finding]:
    """Stages whose watchdog has barked."""
    for run in runs:
        for uri in store.glob(store.join(run, "*", MARKER)):
            told = json.loads(store.read_bytes(uri))
            facts = {**told, "run": run.rsplit("/", 1)[-1], "why": f"It was here:\n{told['where']}"}
            yield Finding("hang", f"hang {facts['run']} {told['stage']} {told['at']}", facts)


def waiting(now: datetime) -> Iterator[Finding]:
    """Corrections that nobody curates: once a day as long as it lasts."""
    feedback = schema.feedback.c
    usable = sa.and_(feedback.withheld.is_(None), feedback.batch.is_(None), feedback.body["consent"].astext == "true", feedback.body["correction"].astext != "")
    with schema.transaction() as db:
        count, oldest = db.execute(sa.select(sa.func.count(), sa.func.min(feedback.at)).where(usable)).one()
    if oldest and (now - oldest) > timedelta(hours=settings().queue_hours):
        why = f"{count} corrections, the oldest for {(now - oldest).total_seconds() / 3600:.0f} hours. Does the DAG `feedback` run? Its log says what it waits for."
        yield Finding("queue", f"queue {now:%Y-%m-%d}", {"what": "Feedback", "why": why})


def open_questions(questions: list[dict[str, Any]], now: datetime) -> Iterator[Finding]:
    """Half of the time to answer has gone, and then nine tenths."""
    for asked in questions:
        began, run = datetime.fromisoformat(asked["created_at"]), asked["task_instance"]["dag_run_id"]
        gone = (now - began) / timedelta(hours=settings().approval_hours)
        part = 90 if gone >= 0.9 else 50 if gone >= 0.5 else 0
        if not part:
            continue
        until = began + timedelta(hours=settings().approval_hours)
        facts = {"version": asked["subject"].removeprefix("Roll out version ").rstrip("?"), "run": run, "timeout": settings().approval_timeout}
        facts |= {"since": f"{began:%Y-%m-%d %H:%M}", "until": f"{until:%Y-%m-%d %H:%M} UTC"}
        yield Finding("reminder", f"reminder {run} {asked['created_at']} {part}", facts, {"In Airflow": f"{settings().airflow_url}/required_actions"})


def unlearned(runs: list[str]) -> list[str]:
    """Published batches that none of the newest turns took in; a turn takes every batch that is there when it begins."""
    published = {name.removesuffix(".json") for name in store.list_names(store.join(settings().store, BATCHES))}
    for run in runs:
        if store.exists(manifest.manifest_uri(run, "ingest")):
            published -= {name.removeprefix("batch.") for name in manifest.read_for(run, "ingest").inputs if name.startswith("batch.")}
    return sorted(published)


def start_once(api: AirflowApi, runs: list[dict[str, Any]], why: str) -> str:
    """Start a turn that has a reason; its run id, or nothing while one is on its way. A paused DAG is left alone: somebody paused it."""
    if any(run["state"] in ACTIVE for run in runs) or (api.dag(DAG) or {"is_paused": True})["is_paused"]:
        return ""
    # the id is the reason's: two looks at once, or one whose answer was lost, start one turn; one that fails is left to people until tomorrow
    return api.trigger(DAG, {}, f"manual__{datetime.now(UTC):%Y-%m-%d}_{why}")


def start_stranded(api: AirflowApi, runs: list[dict[str, Any]]) -> str:
    """Start a turn for batches that none will learn; its run id, or nothing."""
    batches = unlearned(newest_runs())
    return start_once(api, runs, f"batches_{batches[0]}_{batches[-1]}") if batches else ""


def look(api: AirflowApi, now: datetime | None = None) -> tuple[list[Finding], list[str]]:
    """Everything there is to find now, and what could not be looked for."""
    now = now or datetime.now(UTC)
    found: list[Finding] = []
    problems: list[str] = []
    runs: list[dict[str, Any]] = []
    questions: list[dict[str, Any]] = []
    try:
        runs, questions = api.runs(DAG), api.questions(DAG)
    except FlywheelError as error:
        problems.append(error.sentence)
    asked = {question["task_instance"]["dag_run_id"] for question in questions}
    searches: list[Callable[[], Iterator[Finding]]] = [
        lambda: late(runs, asked, now), lambda: missed(api, now), lambda: hung(newest_runs()), lambda: waiting(now), lambda: open_questions(questions, now),
    ]  # fmt: skip
    for search in searches:
        try:
            found += search()
        except FlywheelError as error:
            problems.append(error.sentence)
    return found, problems


def once() -> list[str]:
    """Look, tell people what is new, start what was stranded, send what is due; what was done, in lines for a log."""
    api = AirflowApi()
    said: list[str] = []
    found, problems = look(api)
    for finding in found:
        new = notices.tell(finding.kind, finding.key, finding.facts, finding.links)
        said.append(f"{finding.key}{': told' if new else ''}")
    try:
        if run_id := start_stranded(api, api.runs(DAG)):
            said.append(f"started {run_id} for feedback that no turn would have learned")
    except FlywheelError as error:
        problems.append(error.sentence)
    notices.deliver()
    return [*said, *(f"not looked for: {problem}" for problem in problems)] or ["nothing is late, hangs, was missed or waits too long"]
