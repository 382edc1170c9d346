"""Lineage, both ways: feedback ⇄ batch ⇄ data set version ⇄ model version ⇄ deployment.

`flywheel trace ID` asks here. What a data set holds and what a version learned is read once, from what its stages recorded, into the
ledger's table `lineage`; a question is then answered from there. Records are followed by `Example.feedback_ids`: cleaning may change a
text, and with it a record's own id.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from flywheel import ledger, manifest, registry, store
from flywheel.errors import ContractError, NotFound, TransientError
from flywheel.ledger.schema import answers, batches, feedback, transaction
from flywheel.ledger.schema import lineage as index
from flywheel.manifest import Artifact
from flywheel.records import Feedback, example_id
from flywheel.registry import Version
from flywheel.settings import settings

log = logging.getLogger("flywheel")
DATASETS = "datasets"


def example_of(feedback: Feedback) -> str:
    """The id of the training example that a correction becomes, or an empty string without a correction."""
    return example_id(feedback.prompt.strip(), feedback.input.strip(), feedback.correction.strip()) if feedback.correction else ""


def catch_up() -> None:
    """Read what was registered since the last time into the index. Raises TransientError when the registry is away."""
    with transaction() as db:
        known = {(row.kind, row.id) for row in db.execute(sa.select(index.c.kind, index.c.id))}
    for name in store.list_names(store.join(settings().store, DATASETS)):
        dataset = name.removesuffix(".json")
        if name.endswith(".json") and ("dataset", dataset) not in known:
            entry = json.loads(store.read_bytes(store.join(settings().store, DATASETS, name)))
            content = {split: Artifact.model_validate(artifact) for split, artifact in entry["content"].items()}
            held, lost = _of_examples(content.values())
            detail = {"run_dir": entry["run_dir"], "content": content["train"].sha256, "unreadable": lost}
            _add("dataset", dataset, entry["created"], detail, {name for ids in held.values() for name in ids})
    for version in reversed(registry.versions()):
        if ("version", str(version.version)) not in known:
            _add("version", str(version.version), version.created or datetime.now(UTC).isoformat(), *_learned(version))


def _of_examples(files: Iterable[Artifact]) -> tuple[dict[str, list[str]], str]:
    """Records by the example they went into, and why a file could not be read, if one could not."""
    held: dict[str, list[str]] = {}
    lost = ""
    for artifact in files:
        try:
            lines = artifact.fetch(settings().home / "cache").read_bytes().splitlines()
        except ContractError as error:
            lost = error.sentence
            continue
        for example in map(json.loads, lines):
            if example.get("feedback_ids"):
                held[example["id"]] = example["feedback_ids"]
    return held, lost


def _learned(version: Version) -> tuple[dict[str, Any], set[str]]:
    """Where a version comes from, and the records among the examples of its data set that it, or one of its ancestors, learned from."""
    detail: dict[str, Any] = {"run_dir": version.run_dir, "parent": version.parent, "content": "", "verdict": version.verdict, "unreadable": ""}
    try:
        clean = manifest.read_for(store.resolve(version.run_dir), "clean").outputs["train"]
        trained = set(json.loads(version.trained_ids.fetch(settings().home / "cache").read_bytes()))
    except ContractError as error:
        return {**detail, "unreadable": error.sentence}, set()
    held, lost = _of_examples([clean])
    return {**detail, "content": clean.sha256, "unreadable": lost}, {name for example, ids in held.items() if example in trained for name in ids}


def _add(kind: str, name: str, at: str, detail: dict[str, Any], ids: set[str]) -> None:
    """One entry; of a version only what its parent had not learned, since a version has learned all that its ancestors had."""
    with transaction() as db:
        numbers = set(db.execute(sa.select(feedback.c.number).where(feedback.c.id == sa.any_(sa.literal(list(ids), sa.ARRAY(sa.Text))))).scalars())
        if detail.get("parent"):
            family = ancestors(_parents(db), str(detail["parent"]))
            numbers -= {n for row in db.execute(sa.select(index.c.feedback).where(index.c.kind == "version", index.c.id.in_(family))) for n in row.feedback}
        entry = {"kind": kind, "id": name, "at": datetime.fromisoformat(at), "detail": detail, "feedback": sorted(numbers)}
        db.execute(insert(index).values(entry).on_conflict_do_nothing())


def _parents(db: sa.Connection) -> dict[str, str | None]:
    rows = db.execute(sa.select(index.c.id, index.c.detail["parent"].as_string().label("parent")).where(index.c.kind == "version"))
    return {row.id: row.parent for row in rows}


def ancestors(parents: dict[str, str | None], version: str) -> list[str]:
    """A version and those it goes back to, newest first."""
    found = [version]
    while (before := parents.get(found[-1])) and before not in found:
        found.append(before)
    return found


def touched(db: sa.Connection, numbers: Iterable[int]) -> tuple[list[str], list[str]]:
    """The data sets that hold any of these records, and the versions that learned any of them, whether themselves or from an ancestor."""
    wanted = sa.literal(list(numbers), sa.ARRAY(sa.BigInteger))
    rows = db.execute(sa.select(index.c.kind, index.c.id).where(index.c.feedback.overlap(wanted)).order_by(index.c.at)).all()
    first = {row.id for row in rows if row.kind == "version"}
    parents = _parents(db)
    learned = [version for version in parents if first & set(ancestors(parents, version))]
    return [row.id for row in rows if row.kind == "dataset"], sorted(learned, key=int)


def trace(name: str) -> dict[str, Any]:
    """What came of an id, and what it came from: a record's id or key, an answer, a batch (000003), a data set, or a version (3).

    Raises NotFound when nothing has that id. With the registry away, `incomplete` says so and the rest is from the index.
    """
    note: dict[str, Any] = {}
    try:
        catch_up()
    except TransientError as error:
        note = {"incomplete": error.sentence}
    for look in (_of_record, _of_answer, _of_batch, _of_version, _of_dataset):
        if found := look(name):
            return found | note
    mend = "Pass the id of feedback, an answer, a batch (as 000003), a data set or a version (as 3)."
    raise NotFound("nothing has this id", where=name, mend=mend)


def _of_record(name: str) -> dict[str, Any]:
    row = ledger.find(name)
    if row is None:
        return {}
    with transaction() as db:
        datasets, learned = touched(db, [row.number])
    batch = ledger.batch_name(row.batch) if row.batch else None
    return {
        "kind": "feedback", **json.loads(ledger.line(row)), "segment": row.segment, "batch": batch, "datasets": datasets, "learned_by": learned,
        "deployed": _deployed(learned),
    }  # fmt: skip


def _of_answer(name: str) -> dict[str, Any]:
    with transaction() as db:
        row = db.execute(sa.select(answers).where(answers.c.id == name)).first()
        if row is None:
            return {}
        records = db.execute(sa.select(feedback.c.number, feedback.c.id).where(feedback.c.answer_id == name).order_by(feedback.c.number)).all()
        datasets, learned = touched(db, [r.number for r in records])
    told = {"kind": "answer", **dict(row._mapping), "feedback": [r.id for r in records], "datasets": datasets, "learned_by": learned}
    return told | {"deployed": _deployed([row.model_version])}


def _of_batch(name: str) -> dict[str, Any]:
    if not (name.isdigit() and len(name) >= 6):
        return {}
    with transaction() as db:
        row = db.execute(sa.select(batches).where(batches.c.id == int(name))).first()
        if row is None:
            return {}
        records = db.execute(
            sa.select(feedback.c.number, feedback.c.id, feedback.c.segment).where(feedback.c.batch == row.id).order_by(feedback.c.number)
        ).all()
        datasets, learned = touched(db, [r.number for r in records])
    return {
        "kind": "batch", "batch": name, "claimed": row.at, "finished": row.finished, "segments": sorted({r.segment for r in records}),
        "feedback": [r.id for r in records], "datasets": datasets, "learned_by": learned, "deployed": _deployed(learned),
    }  # fmt: skip


def _of_version(name: str) -> dict[str, Any]:
    with transaction() as db:
        row = db.execute(sa.select(index).where(index.c.kind == "version", index.c.id == name)).first()
        if row is None:
            return {}
        parents = _parents(db)
        family = ancestors(parents, name)
        arrays = db.execute(sa.select(index.c.feedback).where(index.c.kind == "version", index.c.id.in_(family))).scalars()
        records = _records(db, [n for numbers in arrays for n in numbers])
        same = sa.select(index.c.id).where(index.c.kind == "dataset", index.c.detail["content"].as_string() == row.detail["content"])
        datasets = list(db.execute(same).scalars())
        given = db.execute(sa.select(sa.func.count()).where(answers.c.model_version == name)).scalar_one()
    return {
        "kind": "version", "version": name, "registered": row.at, **row.detail, "ancestors": family[1:],
        "descendants": [v for v in parents if v != name and name in ancestors(parents, v)], "datasets": datasets,
        **records, "answers": given, "deployed": _deployed([name]),
    }  # fmt: skip


def _of_dataset(name: str) -> dict[str, Any]:
    with transaction() as db:
        row = db.execute(sa.select(index).where(index.c.kind == "dataset", index.c.id.startswith(name, autoescape=True)).limit(2)).all()
        if len(row) != 1 or len(name) < 6:
            return {}
        learned = sa.select(index.c.id).where(index.c.kind == "version", index.c.detail["content"].as_string() == row[0].detail["content"])
        versions = sorted(db.execute(learned).scalars(), key=int)
        records = _records(db, row[0].feedback)
    return {"kind": "dataset", "dataset": row[0].id, "made": row[0].at, **row[0].detail, "versions": versions, **records, "deployed": _deployed(versions)}


def _records(db: sa.Connection, numbers: list[int]) -> dict[str, list[str]]:
    """The records of these numbers, and the batches they came in."""
    chosen = sa.select(feedback.c.id, feedback.c.batch).where(feedback.c.number == sa.any_(sa.literal(numbers, sa.ARRAY(sa.BigInteger))))
    rows = db.execute(chosen.order_by(feedback.c.number)).all()
    return {"feedback": [row.id for row in rows], "batches": sorted({ledger.batch_name(row.batch) for row in rows if row.batch})}


def _deployed(versions: Iterable[str]) -> dict[str, list[str]]:
    """When each of these versions was made the champion."""
    wanted = set(versions)
    found: dict[str, list[str]] = {}
    for event in reversed(ledger.list_events(10_000, "promote")):
        version = str(event["detail"]["version"])
        if version in wanted:
            found.setdefault(version, []).append(event["at"].isoformat())
    return found
