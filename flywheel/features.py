"""Features at serving: read from a Feast feature server, logged, and pushed to it as feedback comes.

Off, and at no cost, until FLYWHEEL_FEATURES_URL names the server. A missing value, one beyond its time to live and a server that is down
give the defaults below and a line in the log: an answer never waits for a feature.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from typing import Any

import httpx

from flywheel import ledger
from flywheel.errors import FlywheelError
from flywheel.settings import settings

log = logging.getLogger("flywheel.features")
TIMEOUT = 0.25  # seconds; beyond it the defaults are better than a wait
# view: entity, and each feature with the value that stands in for it; its type is the feature's
VIEWS: dict[str, tuple[str, dict[str, Any]]] = {
    "user_profile": ("user", {"tier": "standard", "locale": "en"}),
    "rater_stats": ("user", {"volume": 0, "reliability": 0.5}),
    "prompt_stats": ("prompt", {"rated": 0, "failure_rate": 0.0}),
}


def defaults(entity: str) -> dict[str, Any]:
    """What is assumed of an entity of which nothing is known."""
    return {name: value for of, features in VIEWS.values() if of == entity for name, value in features.items()}


@cache
def _client() -> httpx.Client:
    return httpx.Client(timeout=TIMEOUT)  # one for all: each new one reads every CA certificate


def read(entity: str, key: str, reader: str) -> dict[str, Any]:
    """The features of a user or a prompt, by name; empty when features are off. What was read is in the access log."""
    if not settings().features_url:
        return {}
    names = [f"{view}:{name}" for view, (of, features) in VIEWS.items() if of == entity for name in features]
    body = {"features": names, "entities": {entity: [key]}, "full_feature_names": True}
    try:
        reply = _client().post(f"{settings().features_url}/get-online-features", json=body).raise_for_status().json()
        got = dict(zip(reply["metadata"]["feature_names"], reply["results"], strict=True))
    except (httpx.HTTPError, ValueError, KeyError) as error:
        log.error("the feature server does not answer (%s): the defaults are used. Check FLYWHEEL_FEATURES_URL and `python -m features.server`.", error)
        return defaults(entity)
    values, seen = defaults(entity), {}
    for view, (of, features) in VIEWS.items():
        if of != entity:
            continue
        present = {name: got[f"{view}__{name}"] for name in features}
        fresh = {name: one["values"][0] for name, one in present.items() if one["statuses"][0] == "PRESENT" and one["values"][0] is not None}
        values |= fresh
        seen[view] = {"values": fresh, "as_of": next((one["event_timestamps"][0] for name, one in present.items() if name in fresh), None)}
    _log(entity, key, reader, seen)
    return values


def _log(entity: str, key: str, reader: str, seen: Mapping[str, Any]) -> None:
    query = "insert into feature_reads (reader, entity, key, views) values (%s, %s, %s, %s)"
    try:
        with ledger.transaction() as db:
            db.exec_driver_sql(query, (reader, entity, key, json.dumps(seen)))
    except FlywheelError as error:
        log.error("%s", error.sentence)


def reads(since: datetime) -> list[tuple[datetime, str, str, dict[str, Any]]]:
    """(when, entity, key, what came back by view) of every read since then."""
    with ledger.transaction() as db:
        return [tuple(row) for row in db.exec_driver_sql("select at, entity, key, views from feature_reads where at >= %s order by number", (since,))]  # type: ignore[misc]


def push(view: str, rows: list[dict[str, Any]]) -> bool:
    """Fresh values into the online store, ahead of the next materialization; False when the server does not take them."""
    columns = {name: [row[name].isoformat() if isinstance(row[name], datetime) else row[name] for row in rows] for name in rows[0]} if rows else {}
    body = {"push_source_name": f"{view}_push", "df": columns, "to": "online"}
    try:
        if rows:
            _client().post(f"{settings().features_url}/push", json=body, timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        log.error("fresh values could not be pushed (%s); the next materialization brings them.", error)
        return False
    return True


class Pusher:
    """Pushes what feedback has changed since the last step: call it every few seconds."""

    def __init__(self) -> None:
        self.since = datetime.now(UTC)

    def step(self) -> None:
        """The latest values of every rater and question that feedback came for."""
        from flywheel import feature_rows

        if not settings().features_url:
            return
        now, found = datetime.now(UTC), feature_rows.verdicts()
        fresh = [v for v in found if v.at >= self.since]
        if not fresh:
            return
        for view, rows in (("rater_stats", feature_rows.rater_stats(found)), ("prompt_stats", feature_rows.prompt_stats(found))):
            entity = VIEWS[view][0]
            latest = {row[entity]: row for row in rows if row["event_timestamp"] >= self.since}
            if not push(view, list(latest.values())):
                return
        self.since = now
