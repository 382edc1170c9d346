"""How far annotators agree: Krippendorff's alpha, 1 for agreement and 0 for what chance gives, whoever judged what.

Source: Krippendorff, Computing Krippendorff's Alpha-Reliability, 2011.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from flywheel.ledger.schema import judgements, transaction


def nominal(a: Any, b: Any) -> float:
    """Differ or not."""
    return float(a != b)


def interval(a: Any, b: Any) -> float:
    """By how much, squared."""
    return float(a - b) ** 2


def alpha(units: Iterable[Sequence[Hashable]], distance: Callable[[Any, Any], float] = nominal) -> float | None:
    """Krippendorff's alpha over the values that each unit was given; None when no two people judged one, or all always say the same."""
    pairs = [unit for unit in units if len(unit) > 1]
    counts = Counter(value for unit in pairs for value in unit)
    total = sum(counts.values())
    expected = sum(n * m * distance(a, b) for a, n in counts.items() for b, m in counts.items()) / (total - 1) if total > 1 else 0.0
    if not expected:
        return None
    observed = sum(sum(distance(a, b) for a in unit for b in unit) / (len(unit) - 1) for unit in pairs)
    return 1 - observed / expected


def report() -> dict[str, Any]:
    """Over all annotations that count: alpha of verdicts, ratings and choices, items that several judged, and of each person the share with the majority."""
    with transaction() as db:
        rows = db.execute(sa.select(judgements).where(judgements.c.problem.is_(None), judgements.c.decision.in_(("approve", "edit", "reject")))).all()

    def by_item(name: str) -> dict[str, dict[str, Any]]:
        found: dict[str, dict[str, Any]] = {}
        for row in rows:
            if getattr(row, name) is not None:
                found.setdefault(row.item, {})[row.annotator] = getattr(row, name)
        return found

    verdicts = by_item("decision")
    told: dict[str, Any] = {"annotations": len(rows), "items": len(verdicts), "judged_by_several": sum(len(v) > 1 for v in verdicts.values())}
    told |= {
        "alpha_verdict": _alpha(verdicts, nominal),
        "alpha_rating": _alpha(by_item("rating"), interval),
        "alpha_better": _alpha(by_item("better"), nominal),
    }
    return told | {"with_the_majority": _with_the_majority(verdicts)}


def _alpha(judged: Mapping[str, Mapping[str, Any]], distance: Callable[[Any, Any], float]) -> float | None:
    return alpha([list(values.values()) for values in judged.values()], distance)


def _with_the_majority(verdicts: Mapping[str, Mapping[str, str]]) -> dict[str, float]:
    """Of the items that others judged too and that have a majority among those others, how many a person judged as they did."""
    agreed: dict[str, list[bool]] = {}
    for given in verdicts.values():
        for person, verdict in given.items():
            votes = Counter(v for other, v in given.items() if other != person).most_common(2)
            if votes and (len(votes) == 1 or votes[0][1] > votes[1][1]):
                agreed.setdefault(person, []).append(verdict == votes[0][0])
    return {person: sum(same) / len(same) for person, same in sorted(agreed.items())}
