"""Features at serving: read from a Feast feature server, logged, and pushed to it as feedback comes.

Off, and at no cost, until FLYWHEEL_FEATURES_URL names the server. A missing value, one beyond its time to live and a server that is down
give the defaults below and a line in the log: an answer never waits for a feature. `serving/features.py` is where requests use them.
"""

from __future__ import annotations

import json
import logging
import struct
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import Any

import httpx
import sqlalchemy as sa

from flywheel import ledger
from flywheel.errors import FlywheelError
from flywheel.settings import settings

log = logging.getLogger("flywheel.features")
PROJECT = "flywheel"  # Feast's
TIMEOUT = 0.25  # seconds; beyond it the defaults are better than a wait
REST = 19  # a step reads the whole ledger: after it, so many times as long is waited, and a twentieth of a core is the most that it takes
PAUSE = 5.0  # seconds for which a server that did not answer is not asked again
# view: entity, and each feature with the value that stands in for it; its type is the feature's
VIEWS: dict[str, tuple[str, dict[str, Any]]] = {
    "user_profile": ("user", {"tier": "standard", "locale": "en"}),
    "rater_stats": ("user", {"volume": 0, "reliability": 0.5}),
    "prompt_stats": ("prompt", {"topic": "other", "rated": 0, "failure_rate": 0.0}),
}
FRESH = {"user_profile": timedelta(days=3650), "rater_stats": timedelta(days=365), "prompt_stats": timedelta(days=90)}  # how long a value may be used


@dataclass(frozen=True)
class Read:
    """What came back for one entity: `values` by feature, the defaults among them, and by view what the access log keeps of it."""

    at: datetime
    entity: str
    key: str
    values: dict[str, Any]
    views: dict[str, Any]


def defaults(entity: str) -> dict[str, Any]:
    """What is assumed of an entity of which nothing is known."""
    return {name: value for of, features in VIEWS.values() if of == entity for name, value in features.items()}


@cache
def _client() -> httpx.Client:
    return httpx.Client(timeout=TIMEOUT)  # one for all: each new one reads every CA certificate


_away_until = 0.0


def fetch(entity: str, key: str) -> Read | None:
    """What the feature server has of a user or a prompt now; None when features are off, or the server does not answer."""
    global _away_until
    if not settings().features_url or time.monotonic() < _away_until:
        return None
    names = [f"{view}:{name}" for view, (of, features) in VIEWS.items() if of == entity for name in features]
    body = {"features": names, "entities": {entity: [key]}, "full_feature_names": True}
    at = datetime.now(UTC)
    try:
        reply = _client().post(f"{settings().features_url}/get-online-features", json=body).raise_for_status().json()
        got = dict(zip(reply["metadata"]["feature_names"], reply["results"], strict=True))
    except (httpx.HTTPError, ValueError, KeyError) as error:
        _away_until = time.monotonic() + PAUSE
        log.error("the feature server does not answer (%s): the defaults are used. Check FLYWHEEL_FEATURES_URL and `python -m features.server`.", error)
        return None
    values, views = defaults(entity), {}
    for view, (of, features) in VIEWS.items():
        if of != entity:
            continue
        present = {name: got[f"{view}__{name}"] for name in features}
        fresh = {name: one["values"][0] for name, one in present.items() if _usable(one, at - FRESH[view])}
        values |= fresh
        views[view] = {"values": fresh, "as_of": next((one["event_timestamps"][0] for name, one in present.items() if name in fresh), None)}
    return Read(at, entity, key, values, views)


def _usable(one: dict[str, Any], since: datetime) -> bool:
    """Whether there is a value, from then or later: Feast's server gives older ones, too, and calls them present."""
    return one["statuses"][0] == "PRESENT" and one["values"][0] is not None and datetime.fromisoformat(one["event_timestamps"][0]) >= since


def record(reader: str, found: Sequence[Read]) -> None:
    """Put reads into the access log, all in one statement. Raises TransientError when the database is away."""
    rows = [{"at": one.at, "reader": reader, "entity": one.entity, "key": one.key, "views": json.dumps(one.views)} for one in found]
    with ledger.transaction() as db:
        db.execute(sa.text("insert into feature_reads (at, reader, entity, key, views) values (:at, :reader, :entity, :key, cast(:views as jsonb))"), rows)


def read(entity: str, key: str, reader: str) -> dict[str, Any]:
    """The features of a user or a prompt, by name; empty when features are off. What was read is in the access log."""
    if not settings().features_url:
        return {}
    found = fetch(entity, key)
    if found is None:
        return defaults(entity)
    try:
        record(reader, [found])
    except FlywheelError as error:
        log.error("%s", error.sentence)
    return found.values


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


def online_key(entity: str, key: str) -> bytes:
    """How Feast writes an entity's key in its online store (its serialization 3, of one join key that is a string)."""
    text = 2  # feast.ValueType.STRING
    name, value = entity.encode(), key.encode()
    return struct.pack("<III", 1, text, len(name)) + name + struct.pack("<II", text, len(value)) + value


def forget(db: sa.Connection, user: str, prompts: Sequence[str], until: datetime) -> int:
    """Remove a person, and the questions they asked, from the online store and, up to a moment, from the access log; how many rows that were.

    In the caller's transaction. What others said about the same question comes back with the next materialization.
    """
    gone = 0
    for entity, keys in (("user", [user]), ("prompt", list(prompts))):
        gone += db.exec_driver_sql("delete from feature_reads where entity = %s and key = any(%s) and at <= %s", (entity, keys, until)).rowcount
        for view in (name for name, (of, _) in VIEWS.items() if of == entity):
            table = sa.table(f"{PROJECT}_{view}", sa.column("entity_key"), schema="features")
            if sa.inspect(db).has_table(table.name, schema=table.schema):  # features were on once
                gone += db.execute(sa.delete(table).where(table.c.entity_key.in_([online_key(entity, key) for key in keys]))).rowcount
    return gone


class Pusher:
    """Pushes what feedback has changed since the last step: call it every few seconds."""

    def __init__(self) -> None:
        self.since = datetime.now(UTC)
        self._rests_until = 0.0

    def step(self) -> None:
        """The latest values of every rater and question that feedback came for."""
        from flywheel import config, feature_rows

        began = time.monotonic()
        if not settings().features_url or began < self._rests_until:
            return
        now = datetime.now(UTC)
        if not feature_rows.anything_since(self.since):
            return
        found = feature_rows.verdicts(config.load(settings().config).features.topics)
        for view, rows in (("rater_stats", feature_rows.rater_stats(found)), ("prompt_stats", feature_rows.prompt_stats(found))):
            entity = VIEWS[view][0]
            latest = {row[entity]: row for row in rows if row["event_timestamp"] >= self.since}
            if not push(view, list(latest.values())):
                return
        self.since = now
        self._rests_until = time.monotonic() + REST * (time.monotonic() - began)
