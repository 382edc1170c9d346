"""Forget a person or a record: out of every later data set, and out of the ledger, the segments, the batches, the feature store and MLflow.

Of each record a tombstone stays: its id and the SHA-256 of what was said. The data sets and versions that came before are not changed but
listed, with the runs whose files still hold copies. The ledger forgets in one transaction; what follows from it may be killed at any
point and called again, and the service does it, too.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from flywheel import assessments, features, ledger, lineage, store
from flywheel.errors import ContractError, NotFound, TransientError
from flywheel.feature_rows import prompt_key
from flywheel.ledger import holds
from flywheel.ledger.review import decisions_on
from flywheel.ledger.schema import acceptances, answers, decisions, events, feedback, segments, transaction
from flywheel.ledger.schema import lineage as index
from flywheel.settings import settings

PROOFS = "feedback/forgotten"
PATIENCE = 60.0  # seconds that MLflow gets


def forget(actor: str, reason: str, *, user: str = "", record: str = "", expired: bool = False, until: datetime | None = None) -> dict[str, Any]:
    """Forget everything of a person (what they asked, and all that was said about it; `until` a moment), one record, or what was kept long enough.

    Returns the proof, which is also at `<store>/feedback/forgotten/<id>.json`; its `pending` says what MLflow has still to be told.
    Raises NotFound when there is nothing of that name, ContractError when it is held, TransientError when the store is away: call it again then.
    What is held is passed over when `expired` or `until` is given.
    """
    lineage.catch_up()
    now = datetime.now(UTC)
    with transaction() as db:
        asked: list[str] = []
        if user:
            subject = {"person": store.sha256_text(user)}
            latest = until or now + timedelta(days=1)  # the database has a clock of its own
            asked = list(db.execute(sa.select(answers.c.id).where(answers.c.user == user, answers.c.at <= latest)).scalars())
            said: sa.ColumnElement[bool] = sa.and_(feedback.c.user == user, feedback.c.at <= latest)
            which: sa.ColumnElement[bool] = sa.or_(said, feedback.c.answer_id.in_(asked))
        elif record:
            subject, which = {"record": record}, sa.or_(feedback.c.id == record, feedback.c.idempotency_key == record)
        else:
            subject, which = {"kept_until": now.isoformat()}, feedback.c.keep_until <= now
        which = sa.or_(which, feedback.c.id.in_(decisions_on(sa.select(feedback.c.id).where(which).correlate(None))))
        which = sa.and_(which, feedback.c.sha256.is_(None))
        on_hold = holds.held(db)
        if expired or until:
            which = sa.and_(which, ~on_hold)
            asked = sorted(set(asked) - set(db.execute(sa.select(feedback.c.answer_id).where(on_hold)).scalars()))
        elif user in holds.names(db, "user") or db.execute(sa.select(feedback.c.id).where(which, on_hold).limit(1)).first():
            raise ContractError("this is under a legal hold", where=user or record, mend="`flywheel holds` says why; `flywheel hold --lift` ends it.")
        columns = (feedback.c.number, feedback.c.id, feedback.c.body, feedback.c.segment, feedback.c.batch)
        rows = db.execute(sa.select(*columns).where(which).order_by(feedback.c.number).with_for_update()).all()
        reviewed = db.execute(decisions.update().where(decisions.c.reviewer == user).values(reviewer=store.sha256_text(user))).rowcount
        other = {"acceptances": 0, "features": 0}
        if user and user not in holds.names(db, "user"):
            prompts = [prompt_key(*row) for row in db.execute(sa.select(answers.c.prompt, answers.c.input).where(answers.c.id.in_(asked)))]
            other["acceptances"] = db.execute(acceptances.delete().where(acceptances.c.user == user, acceptances.c.at <= latest)).rowcount
            other["features"] = features.forget(db, user, prompts, latest)
        if rows or asked or expired or reviewed or any(other.values()):
            proof: dict[str, Any] = {"id": uuid.uuid4().hex, "at": now.isoformat(), "actor": actor, "reason": reason, "subject": subject, "answers": len(asked)}
            proof |= other | {"until": (until or now).isoformat(), **_consequences(db, rows)}
            _erase(db, rows, asked, reason)
            ledger.record_event(actor, "forget", within=db, **{key: value for key, value in proof.items() if key != "actor"})
        else:
            proof = _earlier(db, subject, user or record)
    ledger.settle()
    ledger.seal_segments()
    ids = [entry["id"] for entry in proof["records"]]
    proof |= {"pending": _tell_mlflow(ids), "checked": _check(proof, set(ids))}
    store.write_bytes(store.join(settings().store, PROOFS, f"{proof['id']}.json"), json.dumps(proof, indent=1).encode())
    return proof


def again(actor: str) -> list[str]:
    """Forget once more what a proof in the store says was forgotten and the ledger has all the same, since a backup brought it back.

    Returns the ids of the new proofs. What a person said after they were forgotten stays.
    """
    done = []
    folder = store.join(settings().store, PROOFS)
    for name in store.list_names(folder):
        proof = json.loads(store.read_bytes(store.join(folder, name)))
        subject, moment = proof["subject"], datetime.fromisoformat(proof.get("until") or proof["at"])
        with transaction() as db:
            if "record" in subject:
                which = sa.or_(feedback.c.id == subject["record"], feedback.c.idempotency_key == subject["record"])
                back = db.execute(sa.select(feedback.c.id).where(which, feedback.c.sha256.is_(None), ~holds.held(db))).scalars().all()
                found = [{"record": record} for record in back]
            else:
                kept = holds.names(db, "user")
                named = [
                    sa.select(answers.c.user).where(answers.c.at <= moment, answers.c.user != ""),
                    sa.select(feedback.c.user).where(feedback.c.at <= moment, feedback.c.sha256.is_(None), feedback.c.user.is_not(None)),
                ]
                people: Iterable[str] = db.execute(sa.union(*named)).scalars() if "person" in subject else []
                found = [{"user": user} for user in people if store.sha256_text(user) == subject["person"] and user not in kept]
        for one in found:
            done.append(str(forget(actor, f"again, as in proof {proof['id']}", **one, until=moment)["id"]))
    return done


def _hash(body: dict[str, Any]) -> str:
    return store.sha256_text(json.dumps(body, sort_keys=True))


def _consequences(db: sa.Connection, rows: Iterable[Any]) -> dict[str, Any]:
    """The tombstones, and everything that holds these records or learned from them."""
    rows = list(rows)
    datasets, versions = lineage.touched(db, [row.number for row in rows])
    held = {"dataset": datasets, "version": versions}
    of_these = sa.or_(*(sa.and_(index.c.kind == kind, index.c.id.in_(names)) for kind, names in held.items()))
    return {
        "records": [{"id": row.id, "sha256": _hash(row.body)} for row in rows],
        "segments": sorted({row.segment for row in rows if row.segment}),
        "batches": sorted({ledger.batch_name(row.batch) for row in rows if row.batch}),
        "datasets": datasets,
        "versions": versions,
        "runs_with_copies": sorted(set(db.execute(sa.select(index.c.detail["run_dir"].as_string()).where(of_these)).scalars())),
    }


def _erase(db: sa.Connection, rows: Iterable[Any], asked: list[str], reason: str) -> None:
    """Leave tombstones, and mark everything derived from the records to be written again."""
    for row in rows:
        tombstone = {"body": {}, "sha256": _hash(row.body), "withheld": f"forgotten: {reason}", "unsettled": True, "logged": None}
        db.execute(feedback.update().where(feedback.c.id == row.id).values(tombstone))
    db.execute(answers.update().where(answers.c.id.in_(asked)).values(prompt="", input="", response="", user="", forgotten=sa.func.now()))
    db.execute(segments.update().where(segments.c.name.in_({row.segment for row in rows})).values(sealed=None))


def _earlier(db: sa.Connection, subject: dict[str, str], name: str) -> dict[str, Any]:
    """What was forgotten of this name before: the rest of that work may still have to be done."""
    chosen = sa.select(events.c.actor, events.c.detail).where(events.c.action == "forget", events.c.detail["subject"] == sa.cast(subject, events.c.detail.type))
    row = db.execute(chosen.order_by(events.c.number.desc()).limit(1)).first()
    if row is None:
        raise NotFound("there is nothing of this name", where=name, mend="Pass a user as answers and feedback name them, or a record's id.")
    return {**row.detail, "actor": row.actor}


def _tell_mlflow(ids: list[str]) -> list[str]:
    """Have MLflow delete its traces; what is left when it is away, the service tells it later."""
    left: list[str] = []
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        with transaction() as db:
            left = list(db.execute(sa.select(feedback.c.id).where(feedback.c.id.in_(ids), feedback.c.logged.is_(None))).scalars())
        if not left:
            break
        try:
            if not assessments.log_pending():
                time.sleep(0.5)  # the service is at it
        except TransientError:
            break
    return left


def _check(proof: dict[str, Any], ids: set[str]) -> dict[str, str]:
    """Read again what was written anew: the ids may be there as tombstones alone. Gives the files' checksums."""
    seen: dict[str, str] = {}
    with transaction() as db:
        there = set(db.execute(sa.select(segments.c.name).where(segments.c.archived.is_(None))).scalars())
    for name in there & set(proof["segments"]):
        data = store.read_bytes(store.join(settings().store, ledger.SEGMENTS, name))
        bad = [entry for entry in map(json.loads, data.splitlines()) if entry["id"] in ids and "sha256" not in entry]
        seen[name] = _clean(data, bad, name)
    for name in proof["batches"]:
        try:
            batch = json.loads(store.read_bytes(store.join(settings().store, ledger.BATCHES, f"{name}.json")))
        except FileNotFoundError:
            continue  # claimed, not published yet
        for what, file in {"": batch["examples"], **batch.get("copies", {})}.items():
            data = store.read_bytes(store.resolve(file["uri"]))
            bad = [entry for entry in map(json.loads, data.splitlines()) if ids & set(entry["feedback_ids"])]
            seen[f"{name} {what}".strip()] = _clean(data, bad, name)
    return seen


def _clean(data: bytes, bad: list[Any], name: str) -> str:
    if bad:
        raise ContractError(f"{len(bad)} forgotten records are still there", where=name, mend="Call `flywheel forget` again.")
    return store.sha256_text(data.decode())
