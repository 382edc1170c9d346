"""Push what waits for a person to Label Studio, and pull what people decided; each only what is new, and safe to run twice or at once.

What Label Studio holds is the truth about what was pushed: after a death between the two, its newest tasks are read before any is added.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from flywheel.errors import NotFound
from flywheel.labelling import project as projects
from flywheel.labelling.judgements import Taken, take
from flywheel.labelling.label_studio import LabelStudio
from flywheel.ledger import review as reviews
from flywheel.ledger.schema import LABEL_LOCK, answers, feedback, judgements, label_projects, label_tasks, lock, review, transaction

OVERLAP = timedelta(minutes=1)  # what was saved in Label Studio while we asked may carry an earlier time than what we saw


@dataclass
class Pushed:
    """What came of a push."""

    project: int
    new: int = 0
    removed: int = 0
    said: list[str] = field(default_factory=list)


def push(title: str, limit: int, annotators: int) -> Pushed:
    """Have at most `limit` items open in Label Studio, and none that need no person any more."""
    studio = LabelStudio()
    with transaction() as db:
        lock(db, LABEL_LOCK)  # of two that push at once one waits
        known = _project(db, studio.url)
        number, sentence = projects.find(studio, title, annotators, known)
        if number != known:
            db.execute(label_projects.delete().where(label_projects.c.url == studio.url))
            db.execute(insert(label_projects).values(url=studio.url, project=number))
        projects.hook(studio, number)
        done = Pushed(number, said=[sentence] if sentence else [])
        _recover(db, studio, number)
        mine = sa.and_(label_tasks.c.url == studio.url, label_tasks.c.project == number)
        held = {row.item: row.task for row in db.execute(sa.select(label_tasks.c.item, label_tasks.c.task).where(mine))}
        state = _standing(db, list(held))
        for item in sorted(set(held) - set(state)):
            done.removed += _remove(studio, held[item])
            db.execute(label_tasks.delete().where(mine, label_tasks.c.item == item))
        there = [item for item in state if state[item] == "waiting"]
        fresh = [item for item in reviews.waiting(db, limit + len(there)) if item.id not in state][: max(limit - len(there), 0)]
        if fresh:
            body = [projects.task_of(item) for item in fresh]
            made = studio.call("POST", f"/api/projects/{number}/import", params={"return_task_ids": "true"}, json=body)
            if len(made.get("task_ids") or ()) != len(fresh):
                _recover(db, studio, number)
            else:
                rows = [{"url": studio.url, "project": number, "task": task, "item": i.id} for task, i in zip(made["task_ids"], fresh, strict=True)]
                db.execute(insert(label_tasks).values(rows).on_conflict_do_nothing())
        done.new = len(fresh)
    return done


def _project(db: sa.Connection, url: str) -> int | None:
    return db.execute(sa.select(sa.func.max(label_projects.c.project)).where(label_projects.c.url == url)).scalar()


def _recover(db: sa.Connection, studio: LabelStudio, number: int) -> None:
    """Write down tasks that are in Label Studio and not here: who pushed them died."""
    mine = sa.and_(label_tasks.c.url == studio.url, label_tasks.c.project == number)
    last = db.execute(sa.select(sa.func.coalesce(sa.func.max(label_tasks.c.task), 0)).where(mine)).scalar_one()
    found = {str(task["data"].get("item")): task["id"] for task in studio.tasks(number, "id", "Number", last)}
    ours = db.execute(sa.select(review.c.id).where(review.c.id.in_(found))).scalars().all()
    if ours:
        rows = [{"url": studio.url, "project": number, "task": found[item], "item": item} for item in ours]
        db.execute(insert(label_tasks).values(rows).on_conflict_do_nothing())


def _standing(db: sa.Connection, held: list[str]) -> dict[str, str]:
    """Of these items, the state of those that belong there: not what was taken back or forgotten, nor what was decided elsewhere."""
    chosen = sa.select(review.c.id, review.c.state).join(answers, answers.c.id == review.c.answer_id).outerjoin(feedback, feedback.c.id == review.c.feedback_id)
    judged = sa.exists().where(judgements.c.item == review.c.id)
    stands = sa.and_(feedback.c.withheld.is_(None), answers.c.forgotten.is_(None), sa.or_(review.c.state == "waiting", judged))
    return {row.id: row.state for row in db.execute(chosen.where(review.c.id.in_(held), stands))}


def _remove(studio: LabelStudio, task: int) -> int:
    try:
        studio.call("DELETE", f"/api/tasks/{task}/")
    except NotFound:
        return 0
    return 1


def pull() -> Taken:
    """Take up everything that changed in Label Studio since the last time."""
    studio, taken = LabelStudio(), Taken()
    with transaction() as db:
        number = _project(db, studio.url)
        if number is None:
            return taken
        since = db.execute(sa.select(label_projects.c.pulled).where(label_projects.c.url == studio.url, label_projects.c.project == number)).scalar_one()
    try:
        needed = int(projects.look(studio, number)["maximum_annotations"])
        people = studio.people()
        for task in studio.tasks(number, "updated_at", "Datetime", f"{(since - OVERLAP).astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"):
            _take(studio, number, task, needed, people, taken)
            latest = datetime.fromisoformat(task["updated_at"])
            with transaction() as db:
                db.execute(label_projects.update().where(label_projects.c.url == studio.url, label_projects.c.project == number).values(pulled=latest))
    except NotFound:
        taken.said.append(f"project {number} was deleted in Label Studio: what waits is pushed to a new one; what was taken up stays.")
    return taken


def pull_task(number: int, task: int) -> Taken:
    """Take up one task, of which a webhook said that it changed. What the webhook said beside that is not believed."""
    studio, taken = LabelStudio(), Taken()
    with transaction() as db:
        known = _project(db, studio.url)
    if number != known:
        taken.said.append(f"project {number} in Label Studio is not the flywheel's: it is left alone.")
        return taken
    needed = int(projects.look(studio, number)["maximum_annotations"])
    _take(studio, number, studio.call("GET", f"/api/tasks/{task}/"), needed, studio.people(), taken)
    return taken


def _take(studio: LabelStudio, number: int, task: dict[str, Any], needed: int, people: dict[int, str], taken: Taken) -> None:
    item = str(task["data"].get("item") or "")
    said = sorted((projects.judgement(one, task["data"], people) for one in task["annotations"]), key=lambda one: one.changed)
    if said or item:
        take(f"label-studio:{number}", item, said, needed, taken)
