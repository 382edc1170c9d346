"""Entities and views, and the store they live in: offline Parquet in the object store, online values and registry in the one PostgreSQL."""

from __future__ import annotations

import os
from typing import Any

import pandas
import sqlalchemy as sa

from flywheel import store
from flywheel.features import FRESH, PROJECT, VIEWS
from flywheel.settings import settings

os.environ.setdefault("FEAST_USAGE", "False")  # before feast is imported

from feast import Entity, FeatureStore, FeatureView, Field, FileSource, PushSource, RepoConfig, ValueType
from feast.types import Float64, Int64, String

USER = Entity(name="user", join_keys=["user"], value_type=ValueType.STRING, description="Who asks, and who rates")
PROMPT = Entity(name="prompt", join_keys=["prompt"], value_type=ValueType.STRING, description="A question, by the hash of its fingerprint")
ENTITIES = {"user": USER, "prompt": PROMPT}
TYPES = {str: String, int: Int64, float: Float64}


def path(view: str) -> str:
    """Where a view's rows lie."""
    return store.join(settings().store, "features", f"{view}.parquet")


def views() -> list[FeatureView]:
    """Each view, with a source that fresh values can be pushed into."""
    found = []
    for name, (entity, columns) in VIEWS.items():
        source = PushSource(name=f"{name}_push", batch_source=FileSource(name=f"{name}_rows", path=path(name), timestamp_field="event_timestamp"))
        schema = [Field(name=column, dtype=TYPES[type(default)]) for column, default in columns.items()]
        found.append(FeatureView(name=name, entities=[ENTITIES[entity]], ttl=FRESH[name], schema=schema, source=source, online=True))
    return found


def feature_store() -> FeatureStore:
    """Feast on this installation's PostgreSQL and object store."""
    url = sa.make_url(settings().database_url)
    online = {
        "type": "postgres", "host": url.host, "port": url.port or 5432, "database": url.database, "db_schema": "features", "user": url.username,
        "password": url.password or "", "sslmode": "prefer",
    }  # fmt: skip
    registry = {"registry_type": "sql", "path": url.render_as_string(hide_password=False), "cache_ttl_seconds": 60}
    config = RepoConfig(
        project=PROJECT, provider="local", registry=registry, online_store=online, offline_store={"type": "dask"}, entity_key_serialization_version=3
    )
    return FeatureStore(config=config)


def frame(view: str, rows: list[dict[str, Any]]) -> pandas.DataFrame:
    """A view's rows with the right types, even when there is none."""
    entity, columns = VIEWS[view]
    kinds = {str: "str", int: "int64", float: "float64"}
    found = pandas.DataFrame(rows, columns=[entity, "event_timestamp", *columns])
    found["event_timestamp"] = pandas.to_datetime(found["event_timestamp"], utc=True)
    return found.astype({entity: "str", **{name: kinds[type(default)] for name, default in columns.items()}})
