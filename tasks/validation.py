"""Look a data set over as a whole: duplicates, empty texts, balance, and drift against the last accepted version. Called at tokenize's door.

Single records are validated at the door of the stage that reads them. Of what is found here, the config says what stops the turn.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from flywheel.config import Validation
from flywheel.datasets import Profile
from flywheel.records import Example, fingerprint

if TYPE_CHECKING:
    import pandas as pd

SAMPLE, WORDS, BINS = 5000, 1000, 41
COMMON = 5  # a word seen less often is chance
ENOUGH = 100  # fewer records on either side say nothing about drift


class Finding(BaseModel):
    """What one check found."""

    name: str
    outcome: Literal["pass", "skip", "warn", "stop"]
    figure: float | None
    limit: float
    text: str


def look_over(path: Path, conf: Validation, before: Profile | None) -> tuple[Profile, list[Finding]]:
    """The data set's profile, and what every check found in it."""
    frame, words = read(path)
    profile = Profile(
        records=len(frame), lengths=_histogram(frame["asked"] + frame["answered"]), words=words,
        slices={str(name): int(count) for name, count in frame["slice"].value_counts().items()},
    )  # fmt: skip
    comparable = before is not None and min(profile.records, before.records) >= ENOUGH
    psi = stability_index(before.lengths, profile.lengths) if before and comparable else None
    jsd = divergence(before.words, profile.words) if before and comparable else None
    largest = max(profile.slices.values(), default=0) / max(1, profile.records) if len(profile.slices) > 1 else None
    failed = broken(frame, {"balance": (largest, conf.balance), "length_drift": (psi, conf.length_drift), "vocabulary_drift": (jsd, conf.vocabulary_drift)})
    why = "this is the first version" if before is None else f"fewer than {ENOUGH} records on one side"
    shown = {
        "duplicates": (float(len(failed["duplicates"])), 0.0, f"{len(failed['duplicates'])} records have another's id{_such(failed['duplicates'])}"),
        "empty": (float(len(failed["empty"])), 0.0, f"{len(failed['empty'])} records have an empty instruction or answer{_such(failed['empty'])}"),
        "balance": (largest, conf.balance, f"the largest slice has {largest:.0%} of the records" if largest else "there is one slice only"),
        "length_drift": (psi, conf.length_drift, f"population stability index of the lengths {psi:.3f}" if psi is not None else why),
        "vocabulary_drift": (jsd, conf.vocabulary_drift, f"Jensen-Shannon divergence of the vocabulary {jsd:.3f} bits" if jsd is not None else why),
    }
    findings = []
    for name, (figure, limit, text) in shown.items():
        bad = ("stop" if name in conf.stop else "warn") if failed[name] else None
        outcome = bad or ("skip" if figure is None else "pass")
        findings.append(Finding(name=name, outcome=outcome, figure=figure, limit=limit, text=f"{text}, above {limit:g}" if bad and limit else text))
    return profile, findings


def read(path: Path) -> tuple[pd.DataFrame, dict[str, float]]:
    """One row a record (id, characters asked and answered, slice), and the share of each common word.

    Ids are hashes and the file is sorted by them: its first records are a fair sample of all.
    """
    import pandas as pd

    columns: dict[str, list[object]] = {"id": [], "asked": [], "answered": [], "slice": []}
    words: Counter[str] = Counter()
    with open(path, "rb") as file:
        for number, line in enumerate(file):
            e = Example.model_validate_json(line)
            for name, value in zip(columns, (e.id, len(f"{e.instruction}{e.input}".strip()), len(e.output.strip()), e.slice or e.source), strict=True):
                columns[name].append(value)
            if number < SAMPLE:
                words.update(fingerprint(f"{e.instruction} {e.input} {e.output}").split())
    total = max(1, words.total())
    return pd.DataFrame(columns), {word: round(count / total, 7) for word, count in words.most_common(WORDS) if count >= COMMON}


def broken(frame: pd.DataFrame, limited: dict[str, tuple[float | None, float]]) -> dict[str, list[str]]:
    """What a pandera schema says of the records and of figures that have a limit: the failing records' ids, or the figure, by check."""
    import pandera.pandas as pa

    filled = {"asked": pa.Column(int, pa.Check.ge(1)), "answered": pa.Column(int, pa.Check.ge(1))}
    within = [pa.Check(lambda _, figure=figure, limit=limit: figure <= limit, name=name) for name, (figure, limit) in limited.items() if figure is not None]
    schema = pa.DataFrameSchema({"id": pa.Column(str, unique=True, report_duplicates="exclude_first"), **filled}, checks=within)
    found: dict[str, list[str]] = {name: [] for name in ("duplicates", "empty", *limited)}
    try:
        schema.validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        for case in errors.failure_cases.itertuples():
            name = case.check if case.schema_context == "DataFrameSchema" else "duplicates" if case.column == "id" else "empty"
            identity = str(frame["id"][case.index]) if case.index is not None else ""
            if identity not in found[name]:
                found[name].append(identity)
    return found


def stability_index(before: Sequence[int], now: Sequence[int]) -> float:
    """Population stability index of two histograms, over the tenths of the first; 0.1 is little, 0.25 is much."""
    import numpy as np

    old, new = np.asarray(before, dtype=float), np.asarray(now, dtype=float)
    tenth = np.minimum(np.cumsum(old) / old.sum() * 10, 9.999).astype(int)
    a, b = (np.bincount(tenth, weights=counts) + 0.5 for counts in (old, new))
    a, b = a / a.sum(), b / b.sum()
    return float(((b - a) * np.log(b / a)).sum())


def divergence(before: dict[str, float], now: dict[str, float]) -> float:
    """Jensen-Shannon divergence of two word distributions, in bits: 0 the same, 1 nothing in common. What is not common counts as one word."""
    from scipy.spatial.distance import jensenshannon

    words = sorted(before.keys() | now.keys())
    a, b = ([*(side.get(word, 0.0) for word in words), max(0.0, 1 - sum(side.values()))] for side in (before, now))
    return float(jensenshannon(a, b, base=2) ** 2)


def _histogram(sizes: pd.Series) -> list[int]:
    import numpy as np

    bins = np.clip(np.floor(2 * np.log2(np.maximum(sizes.to_numpy(dtype=float), 1))), 0, BINS - 1).astype(int)
    return [int(count) for count in np.bincount(bins, minlength=BINS)]


def _such(ids: list[str]) -> str:
    return f", e.g. {ids[0]}" if ids else ""
