"""The outbox: a message is in the ledger before it is sent, so that it is sent once, and again when a channel was away."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert

from flywheel.errors import FlywheelError, TransientError
from flywheel.ledger import schema
from flywheel.ledger.schema import notices
from flywheel.notices import channels, config, message
from flywheel.notices.config import Kind

log = logging.getLogger("flywheel")
TRIES = 12  # over two days
LONGEST = timedelta(hours=6)


def tell(kind: Kind, key: str, facts: Mapping[str, Any], links: Mapping[str, str] | None = None, ask: Mapping[str, str] | None = None) -> bool:
    """Tell people once for this key; whether it was new. What the channels do with it is in the log, and tried again by `deliver`.

    Raises ContractError for a notices.yaml that is wrong. When the ledger is away, what is urgent is sent all the same.
    """
    conf = config.load()
    receivers = [channel for channel in conf.channels if kind in channel.about or kind == "test"]
    if not receivers:
        return False
    said = message.write(kind, facts, links or {}, ask or {}, conf)
    now = datetime.now(UTC)
    due = conf.quiet.until(kind, now) if conf.quiet else now
    row = {"key": key, "kind": kind, "message": said.model_dump(), "pending": [channel.name for channel in receivers], "due": due}
    try:
        with schema.transaction() as db:
            new = db.execute(insert(notices).values(row).on_conflict_do_nothing().returning(notices.c.key)).first() is not None
        if new and due <= now:
            deliver(key)
        return new
    except TransientError as error:
        if kind not in config.URGENT:
            raise
        log.warning("%s", error.sentence)
        for channel in receivers:
            _try(channel, said)
        return True


def deliver(key: str | None = None) -> int:
    """Send what is due, or one message; how many reached everybody. What nobody took after many tries is left, with its problem."""
    conf, done = config.load(), 0
    by_name = {channel.name: channel for channel in conf.channels}
    chosen = sa.select(notices.c.key).where(notices.c.pending != sa.cast([], notices.c.pending.type), notices.c.due <= sa.func.now(), notices.c.tries < TRIES)
    with schema.transaction() as db:
        keys = db.execute(chosen.where(notices.c.key == key) if key else chosen.order_by(notices.c.at)).scalars().all()
    for one in keys:
        with schema.transaction() as db:
            row = db.execute(chosen.with_only_columns(notices).where(notices.c.key == one).with_for_update(skip_locked=True)).first()
            if row is None:  # somebody else is at it
                continue
            said = message.Message.model_validate(row.message)
            problems = {name: _try(by_name[name], said) for name in row.pending if name in by_name}
            left = [name for name, problem in problems.items() if problem]
            pause = min(LONGEST, timedelta(minutes=2**row.tries))
            values = {"pending": left, "tries": row.tries + 1, "due": datetime.now(UTC) + pause, "problem": "; ".join(filter(None, problems.values()))}
            db.execute(notices.update().where(notices.c.key == one).values(values))
            done += not left
    return done


def _try(channel: config.Channel, said: message.Message) -> str:
    """Send; what went wrong, or nothing."""
    try:
        channels.send(channel, said)
    except FlywheelError as error:
        log.warning("%s", error.sentence)
        return error.sentence
    return ""


def recent(limit: int = 20) -> list[dict[str, Any]]:
    """The last messages, newest first."""
    with schema.transaction() as db:
        return [dict(row._mapping) for row in db.execute(sa.select(notices).order_by(notices.c.at.desc()).limit(limit))]
