"""The door: answers, and what people said of them. A record is acknowledged only after its commit, and never changed.

A newer record may supersede one of the same person, and a person may withdraw one: it is then withheld from everything later.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.exc import DataError, InterfaceError, OperationalError

from flywheel.errors import ContractError, FlywheelError, NotFound
from flywheel.ledger.schema import answers, feedback, statements, transaction
from flywheel.records import Feedback, FeedbackIn
from flywheel.settings import settings

CLOCK = timedelta(minutes=5)  # clocks may differ by this much


# Statements of the door. Arrays keep their text the same whatever their length, so that each is compiled and planned once.
_NAMES = sa.any_(sa.bindparam("names", type_=sa.ARRAY(sa.Text)))
_ASKED = sa.select(answers.c.id, answers.c.at).where(answers.c.id == _NAMES, answers.c.forgotten.is_(None))
_NAMED = sa.select(feedback.c.id, feedback.c.idempotency_key, feedback.c.answer_id, feedback.c.user, feedback.c.body, feedback.c.sha256).where(
    sa.or_(feedback.c.id == _NAMES, feedback.c.idempotency_key == _NAMES)
)
_INSERT = sa.text("""
    insert into feedback (id, idempotency_key, answer_id, body, keep_until, withheld, unsettled)
    select r.id, r.key, r.answer, cast(r.body as jsonb), r.keep_until, 'superseded by ' || newer.id, newer.id is not null
    from unnest(cast(:id as text[]), cast(:idempotency_key as text[]), cast(:answer_id as text[]), cast(:body as text[]),
                cast(:keep_until as timestamptz[])) as r (id, key, answer, body, keep_until)
    join answers on answers.id = r.answer and answers.forgotten is null
    left join lateral (
        select n.id from feedback n where n.supersedes = r.key and n.answer_id = r.answer and n."user" = cast(r.body as jsonb) ->> 'user' limit 1
    ) newer on true
    on conflict (idempotency_key) do nothing
    returning idempotency_key
""")
_ANSWERED = sa.text("""
    insert into answers (id, prompt, input, response, model_version, "user")
    select * from unnest(cast(:id as text[]), cast(:prompt as text[]), cast(:input as text[]), cast(:response as text[]),
                         cast(:model_version as text[]), cast(:user as text[]))
    on conflict (id) do nothing
""")
older, newer = feedback.alias("older"), feedback.alias("newer")


@dataclass(frozen=True)
class Stored:
    """A committed record: its id, whether it is new (False: the same key was stored before), and what its sender should know."""

    id: str
    new: bool
    note: str = ""


class NewAnswer(NamedTuple):
    """What was asked and answered, by which version, for whom."""

    id: str
    prompt: str
    input: str
    response: str
    model_version: str
    user: str = "anonymous"


def add_answers(given: Sequence[NewAnswer]) -> None:
    """Commit answers together, in one statement. Raises TransientError when the database is away."""
    if not given:
        return
    columns = {name: [text.replace("\x00", "\ufffd") for text in texts] for name, texts in zip(NewAnswer._fields, zip(*given, strict=True), strict=True)}
    try:
        with statements() as db:
            db.execute(_ANSWERED, columns)
    except (OperationalError, InterfaceError):  # a connection that ended with its server; what it stored is passed over
        with transaction() as db:
            db.execute(_ANSWERED, columns)


def add_answer(prompt: str, input: str, response: str, model_version: str, user: str = "anonymous") -> str:
    """Store what was asked and answered; returns the answer's id."""
    answer_id = uuid.uuid4().hex
    add_answers([NewAnswer(answer_id, prompt, input, response, model_version, user)])
    return answer_id


def add_feedback(given: FeedbackIn, *, within: sa.Connection | None = None) -> tuple[str, bool]:
    """Commit one record, or add it to the transaction that is given; its id and whether it is new. Raises what `add_many` returns for it."""
    (done,) = add_many([given]) if within is None else _add_many(within, [given])
    if isinstance(done, FlywheelError):
        raise done
    return done.id, done.new


def add_many(given: Sequence[FeedbackIn]) -> list[Stored | FlywheelError]:
    """Commit records together; one that cannot be stored stands in nobody's way.

    For each: Stored; NotFound for an unknown answer; ContractError for a key that was used for something else, somebody else's
    record to supersede, or a date of forgetting that has passed. Raises TransientError, for all, when the database is away.
    """
    try:
        done = _add_plain(given)
    except (DataError, OperationalError, InterfaceError):  # a text that is none, or a connection that ended with its server: look at each
        done = {}
    rest = [one for n, one in enumerate(given) if n not in done]
    others = iter(_add_rest(rest) if rest else ())
    return [done[n] if n in done else next(others) for n in range(len(given))]


def _add_plain(given: Sequence[FeedbackIn]) -> dict[int, Stored]:
    """Commit what names nothing but its answer, in one statement; by position, what is stored now. What is not has to be looked at."""
    latest = datetime.now(UTC) + timedelta(days=settings().retention_days)
    places: dict[str, int] = {}
    for n, one in enumerate(given):
        if not (one.supersedes or one.preference or one.keep_until or one.given_at):
            places.setdefault(one.idempotency_key, n)
    rows = {key: _row(given[n], latest) for key, n in places.items()}
    with statements() as db:
        fresh = _insert(db, rows)
    return {places[key]: Stored(rows[key]["id"], True) for key in fresh}


def _add_rest(given: Sequence[FeedbackIn]) -> list[Stored | FlywheelError]:
    try:
        with transaction() as db:
            return _add_many(db, given)
    except DataError as error:
        if len(given) == 1:
            mend = "Leave out characters that are no text."
            return [ContractError(f"it cannot be stored ({error.orig})", where=f"idempotency_key {given[0].idempotency_key}", mend=mend)]
        return [done for one in given for done in _add_rest([one])]


def _add_many(db: sa.Connection, given: Sequence[FeedbackIn]) -> list[Stored | FlywheelError]:
    now = datetime.now(UTC)
    latest = now + timedelta(days=settings().retention_days)
    asked = _answers(db, given)
    named = _named(db, [g.supersedes for g in given if g.supersedes])
    refused = [_refusal(g, asked, named, now) for g in given]
    rows: dict[str, dict[str, Any]] = {}
    for one, refusal in zip(given, refused, strict=True):
        if not refusal:
            rows.setdefault(one.idempotency_key, _row(one, latest))
    fresh = _insert(db, rows)
    replacing = [rows[g.idempotency_key]["id"] for g in given if g.supersedes and g.idempotency_key in fresh]
    if replacing:
        supersede(db, newer.c.id.in_(replacing))
    stored = _named(db, [key for key in rows if key not in fresh])
    done: list[Stored | FlywheelError] = []
    told: set[str] = set()
    for one, refusal in zip(given, refused, strict=True):
        key = one.idempotency_key
        if refusal:
            done.append(refusal)
        elif key in stored:
            done.append(_again(one, stored[key]))
        elif key not in fresh:
            done.append(_unknown(f"answer_id {one.answer_id}"))  # it was forgotten a moment ago
        elif rows[key]["body"] != one.model_dump_json():
            done.append(_used(one))
        else:
            done.append(Stored(rows[key]["id"], key not in told, _note(one, asked[one.answer_id], named)))
            told.add(key)
    return done


def _row(given: FeedbackIn, latest: datetime) -> dict[str, Any]:
    """A record as it is inserted."""
    keep_until = min(given.keep_until or latest, latest)
    return {
        "id": uuid.uuid4().hex,
        "idempotency_key": given.idempotency_key,
        "answer_id": given.answer_id,
        "body": given.model_dump_json(),
        "keep_until": keep_until,
    }


def _answers(db: sa.Connection, given: Sequence[FeedbackIn]) -> dict[str, datetime]:
    """When each of the answers that are named was given; those that are unknown or forgotten are not there."""
    ids = {g.answer_id for g in given} | {g.preference.other_id for g in given if g.preference and g.preference.other_id}
    return {row.id: row.at for row in db.execute(_ASKED, {"names": list(ids)})}


def _insert(db: sa.Connection, rows: dict[str, dict[str, Any]]) -> set[str]:
    """Insert what is new and about a known answer, withheld when a newer record that came first replaces it; the keys that were inserted."""
    if not rows:
        return set()
    ordered = [rows[key] for key in sorted(rows)]  # two servers that store the same keys cannot wait for each other
    return set(db.execute(_INSERT, {name: [row[name] for row in ordered] for name in ordered[0]}).scalars())


def _named(db: sa.Connection, names: list[str]) -> dict[str, Any]:
    """Stored records by the ids or keys they are named by."""
    if not names:
        return {}
    rows = db.execute(_NAMED, {"names": names}).all()
    return {name: row for row in rows for name in (row.id, row.idempotency_key) if name in names}


def _refusal(given: FeedbackIn, asked: dict[str, datetime], named: dict[str, Any], now: datetime) -> FlywheelError | None:
    if given.answer_id not in asked:
        return _unknown(f"answer_id {given.answer_id}")
    other = given.preference.other_id if given.preference else None
    if other and other not in asked:
        return NotFound("there is no such answer", where=f"preference.other_id {other}", mend="Send the other answer's id, or its text as `other`.")
    if given.keep_until and given.keep_until <= now:
        return ContractError("keep_until has passed", where=f"keep_until {given.keep_until.isoformat()}", mend="Name a moment to come, or none.")
    before = named.get(given.supersedes or "")
    if before is not None and (before.user, before.answer_id) != (given.user, given.answer_id) and before.sha256 is None:
        mend = "Only a record of the same person about the same answer can be superseded."
        return ContractError("that record is not this person's, or about another answer", where=f"supersedes {given.supersedes}", mend=mend)
    return None


def _unknown(where: str) -> NotFound:
    return NotFound("there is no such answer", where=where, mend="Send the answer_id that came with the answer.")


def _note(given: FeedbackIn, answered: datetime, named: dict[str, Any]) -> str:
    notes = []
    if given.given_at and not answered - CLOCK <= given.given_at <= datetime.now(UTC) + CLOCK:
        notes.append(f"given_at {given.given_at.isoformat()} is before the answer or in the future: it is kept, and the service's own clock counts.")
    if given.supersedes and given.supersedes not in named:
        notes.append(f"supersedes {given.supersedes}: there is no such record yet; should it come, it counts as superseded.")
    return " ".join(notes)


def _used(given: FeedbackIn) -> ContractError:
    return ContractError("this key was used for other feedback", where=f"idempotency_key {given.idempotency_key}", mend="Make a new key for new feedback.")


def _again(given: FeedbackIn, row: Any) -> Stored | FlywheelError:
    """What a key that is known gets. Bodies are compared as records: an older server wrote fewer fields."""
    if row.sha256 is not None:
        return ContractError("this feedback was forgotten", where=f"idempotency_key {given.idempotency_key}", mend="It is not stored again.")
    return Stored(row.id, False) if FeedbackIn.model_validate(row.body) == given else _used(given)


def supersede(db: sa.Connection, which: sa.ColumnElement[bool]) -> None:
    """Withhold what a record of the same person replaces, whichever of the two came first; `which` picks among `newer` and `older`."""
    same = sa.and_(newer.c.user == older.c.user, newer.c.answer_id == older.c.answer_id, older.c.withheld.is_(None), newer.c.supersedes.is_not(None))
    by = [
        sa.select(older.c.number, newer.c.id).join_from(newer, older, newer.c.supersedes == name).where(same, which)
        for name in (older.c.id, older.c.idempotency_key)  # two joins that each have an index
    ]
    pairs = sa.union_all(*by).subquery()
    db.execute(feedback.update().where(feedback.c.number == pairs.c.number).values(withheld="superseded by " + pairs.c.id, unsettled=True))


def withdraw(feedback_id: str, user: str) -> str:
    """Take back a record, by its id or key, for the person who gave it; returns its id. Twice is as good as once.

    Raises NotFound when it is unknown, ContractError when it is somebody else's.
    """
    with transaction() as db:
        row = _named(db, [feedback_id]).get(feedback_id)
        if row is None or row.sha256 is not None:
            raise NotFound("there is no such feedback", where=feedback_id, mend="Send the id that came with the 201.")
        if row.user != user:
            raise ContractError("only who gave it can withdraw it", where=feedback_id, mend="Send the `user` it was given with.")
        chosen = feedback.update().where(feedback.c.id == row.id, sa.func.coalesce(feedback.c.withheld, "") != "withdrawn")
        db.execute(chosen.values(withheld="withdrawn", unsettled=True))
    return str(row.id)


READ = sa.select(
    feedback.c.number, feedback.c.id, feedback.c.at, feedback.c.body, feedback.c.keep_until, feedback.c.withheld, feedback.c.sha256, feedback.c.segment,
    feedback.c.batch, feedback.c.answer_id, answers.c.prompt, answers.c.input, answers.c.response, answers.c.model_version,
).join(answers)  # fmt: skip


def record_of(row: Any) -> Feedback:
    """The record of a row of READ that is not forgotten."""
    return Feedback(**{
        **row.body, "id": row.id, "timestamp": row.at, "keep_until": row.keep_until, "withheld": row.withheld or "",
        "prompt": row.prompt, "input": row.input, "response": row.response, "model_version": row.model_version,
    })  # fmt: skip


def find(name: str) -> Any:
    """The row of READ of an id or a key, or None."""
    with transaction() as db:
        return db.execute(READ.where(sa.or_(feedback.c.id == name, feedback.c.idempotency_key == name))).first()


def of_person(user: str, limit: int) -> list[Feedback]:
    """What a person said, the newest first; what was forgotten is not there."""
    chosen = READ.where(feedback.c.user == user, feedback.c.sha256.is_(None)).order_by(feedback.c.number.desc()).limit(limit)
    with transaction() as db:
        return [record_of(row) for row in db.execute(chosen)]
