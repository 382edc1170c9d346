"""The offline rows, from the ledger: after every event, what was known then. A row never knows what came later."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from flywheel import ledger, prompt, store
from flywheel.ledger.schema import answers, feedback
from flywheel.records import question


@dataclass(frozen=True)
class Verdict:
    """One person's judgement of one answer, and when it came."""

    id: str
    at: datetime
    asked_at: datetime
    user: str
    asker: str
    answer_id: str
    prompt: str
    topic: str
    good: bool | None


def prompt_key(instruction: str, input: str) -> str:
    """The entity key of a question: the same for what a reader calls the same, whatever serving showed the model beside it."""
    return store.sha256_text(question(instruction, prompt.asked(input)))[:32]


def topic_of(instruction: str, input: str, topics: Mapping[str, str]) -> str:
    """The first topic whose pattern is found in a question, in any case; `other` when none is."""
    text = f"{instruction}\n{prompt.asked(input)}"
    return next((name for name, pattern in topics.items() if re.search(pattern, text, re.IGNORECASE)), "other")


def anything_since(moment: datetime) -> bool:
    """Whether any feedback came since then."""
    with ledger.transaction() as db:
        return bool(db.execute(sa.select(sa.exists().where(feedback.c.at >= moment))).scalar())


def verdicts(topics: Mapping[str, str]) -> list[Verdict]:
    """Everything that was said and may be learned from, in the order it came. `topics`: a pattern each, as in the config."""
    query = (
        sa.select(feedback.c.id, feedback.c.at, feedback.c.user, feedback.c.answer_id, feedback.c.body, answers.c.prompt, answers.c.input,
                  answers.c.at.label("asked_at"), answers.c.user.label("asker"))
        .join(answers, answers.c.id == feedback.c.answer_id)
        .where(feedback.c.withheld.is_(None), feedback.c.sha256.is_(None))
        .order_by(feedback.c.at, feedback.c.number)
    )  # fmt: skip
    with ledger.transaction() as db:
        rows = db.execute(query).all()
    about = {(r.prompt, r.input): (prompt_key(r.prompt, r.input), topic_of(r.prompt, r.input, topics)) for r in rows}
    return [Verdict(r.id, r.at, r.asked_at, r.user or "anonymous", r.asker, r.answer_id, *about[r.prompt, r.input], _good(r.body)) for r in rows]


def _good(body: dict[str, Any]) -> bool | None:
    if body.get("thumb"):
        return bool(body["thumb"] == "up")
    if body.get("rating"):
        return None if body["rating"] == 3 else bool(body["rating"] > 3)
    return False if body.get("correction") else None


def rater_stats(found: Iterable[Verdict]) -> list[dict[str, Any]]:
    """Volume, and reliability: how often a rater agreed with the majority of those before on the same answer; (agreed + 1) / (compared + 2)."""
    volume, agreed, compared = defaultdict[str, int](int), defaultdict[str, int](int), defaultdict[str, int](int)
    said: dict[str, dict[str, bool]] = defaultdict(dict)
    rows = []
    for v in found:
        volume[v.user] += 1
        others = [good for user, good in said[v.answer_id].items() if user != v.user]
        if v.good is not None:
            up = sum(others) * 2 - len(others)
            if up:
                compared[v.user] += 1
                agreed[v.user] += (up > 0) == v.good
            said[v.answer_id][v.user] = v.good
        reliability = (agreed[v.user] + 1) / (compared[v.user] + 2)
        rows.append({"user": v.user, "event_timestamp": v.at, "volume": volume[v.user], "reliability": reliability})
    return rows


def prompt_stats(found: Iterable[Verdict]) -> list[dict[str, Any]]:
    """A question's topic, how often answers to it were judged, and the share found bad."""
    rated, bad = defaultdict[str, int](int), defaultdict[str, int](int)
    rows = []
    for v in found:
        if v.good is not None:
            rated[v.prompt] += 1
            bad[v.prompt] += not v.good
            rate = bad[v.prompt] / rated[v.prompt]
            rows.append({"prompt": v.prompt, "event_timestamp": v.at, "topic": v.topic, "rated": rated[v.prompt], "failure_rate": rate})
    return rows
