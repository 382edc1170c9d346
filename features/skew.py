"""Whether serving saw what training would: each logged read against the offline rows of the same moment, joined as training joins them."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pandas
from feast import FeatureStore

from flywheel.features import VIEWS

LATE = timedelta(minutes=10)  # by this time a value is online: pushes take seconds
CLOSE = 1e-6


def join(feast: FeatureStore, entity: str, moments: list[tuple[str, datetime]]) -> list[dict[str, Any]]:
    """The features of each (key, moment), as they were known then and no later; None for what was not, or no longer, known."""
    once = list(dict.fromkeys(moments))  # Feast answers the same question once, however often it is asked
    known: dict[tuple[str, datetime], dict[str, Any]] = {moment: {} for moment in once}
    for view, (of, features) in VIEWS.items():
        if of != entity or not once:
            continue
        empty = {f"{view}__{name}": None for name in features}
        asked = {"row": range(len(once)), entity: [key for key, _ in once], "event_timestamp": pandas.to_datetime([at for _, at in once], utc=True)}
        # View by view: Feast's file store drops the whole row of an entity whose only values in a view are stale or yet to come.
        rows = feast.get_historical_features(pandas.DataFrame(asked), [f"{view}:{name}" for name in features], full_feature_names=True).to_df()
        found = {row["row"]: {name: None if pandas.isna(row[name]) else row[name] for name in empty} for row in rows.to_dict("records")}
        for number, moment in enumerate(once):
            known[moment] |= found.get(number, empty)
    return [known[moment] for moment in moments]


def differences(feast: FeatureStore, reads: list[tuple[datetime, str, str, dict[str, Any]]]) -> list[str]:
    """A sentence for each feature that serving read and training would have seen otherwise."""
    found = []
    for entity in {of for of, _ in VIEWS.values()}:
        chosen = [read for read in reads if read[1] == entity]
        for view in (view for view, (of, _) in VIEWS.items() if of == entity):
            given = [(at, key, views.get(view) or {}) for at, _, key, views in chosen]
            dated = [(at, key, seen) for at, key, seen in given if seen.get("as_of")]
            same = join(feast, entity, [(key, datetime.fromisoformat(seen["as_of"])) for _, key, seen in dated])
            found += _compare(entity, view, dated, same, "the offline row of that moment has")
            due = join(feast, entity, [(key, at - LATE) for at, key, _ in given])
            behind = [
                (one, row) for one, row in zip(given, due, strict=True)
                if not one[2].get("as_of") or datetime.fromisoformat(one[2]["as_of"]) < one[0] - LATE
            ]  # fmt: skip
            found += _compare(entity, view, [one for one, _ in behind], [row for _, row in behind], "it was late: offline there was long since")
    return sorted(set(found))


def _compare(entity: str, view: str, given: list[tuple[datetime, str, dict[str, Any]]], rows: list[dict[str, Any]], words: str) -> list[str]:
    found = []
    for (at, key, seen), row in zip(given, rows, strict=True):
        for name in VIEWS[view][1]:
            ours, theirs = seen.get("values", {}).get(name), row[f"{view}__{name}"]
            if theirs is not None and not _alike(ours, theirs):
                found.append(f"{view}.{name} of {entity} {key}, read {at.isoformat()}: serving had {ours}, {words} {theirs}")
    return found


def _alike(a: Any, b: Any) -> bool:
    return abs(a - b) <= CLOSE if isinstance(a, int | float) and isinstance(b, int | float) else a == b
