"""The sensor on sealed feedback: waits in the triggerer, for nothing but a look at the store every few seconds.

With FLYWHEEL_FEEDBACK_QUEUE, an SQS queue that the bucket tells of new objects, it looks when a message comes, and every twenty seconds all the
same: a message is a hint, and one that is lost, doubled or cannot be fetched strands nothing. docs/operating.md says how to set it up.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

from airflow.sdk import BaseOperator
from airflow.triggers.base import BaseTrigger, TriggerEvent

SECONDS = 5.0
LONG_POLL = 20  # seconds: SQS allows no longer one


def fresh_segments(store_uri: str) -> list[str]:
    """Sealed segments that no batch has claimed and that curation has not just found too small.

    What it found too small comes back when a new segment is sealed, or when the batch has waited long enough.
    """
    from flywheel import store
    from flywheel.ledger import CLAIMED, SEGMENTS, WAITING

    claimed = set(store.list_names(store.join(store_uri, CLAIMED)))
    unclaimed = [name for name in store.list_names(store.join(store_uri, SEGMENTS)) if name.endswith(".jsonl") and name not in claimed]
    try:
        note = json.loads(store.read_bytes(store.join(store_uri, WAITING)))
    except FileNotFoundError:
        return unclaimed
    due = note["until"] is not None and datetime.now(UTC) >= datetime.fromisoformat(note["until"])
    return unclaimed if due or not set(unclaimed) <= set(note["segments"]) else []


class SegmentTrigger(BaseTrigger):
    """Fires once there are fresh segments."""

    def __init__(self, store_uri: str, seconds: float = SECONDS, queue: str = "") -> None:
        super().__init__()
        self.store_uri = store_uri
        self.seconds = seconds
        self.queue = queue

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """How the triggerer makes it again."""
        return "dags.launch.sensor.SegmentTrigger", {"store_uri": self.store_uri, "seconds": self.seconds, "queue": self.queue}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Look, wait, look again. A store that fails for a moment is looked at again."""
        while True:
            try:
                found = await asyncio.to_thread(fresh_segments, self.store_uri)
            except OSError as error:
                self.log.warning("the store does not answer (%s); looking again", error)
                found = []
            if found:
                yield TriggerEvent(found)
                return
            await self._wait()

    async def _wait(self) -> None:
        """For a message, which is then taken; without a queue, or when it does not answer, for some seconds."""
        if self.queue:
            from aiobotocore.session import get_session
            from botocore.exceptions import BotoCoreError, ClientError

            try:
                async with get_session().create_client("sqs") as sqs:
                    told = await sqs.receive_message(QueueUrl=self.queue, MaxNumberOfMessages=10, WaitTimeSeconds=LONG_POLL)
                    taken = [{"Id": str(n), "ReceiptHandle": m["ReceiptHandle"]} for n, m in enumerate(told.get("Messages", ()))]
                    if taken:
                        await sqs.delete_message_batch(QueueUrl=self.queue, Entries=taken)
                return
            except (BotoCoreError, ClientError) as error:
                self.log.warning("the queue does not answer (%s); looking every %g seconds", error, self.seconds)
        await asyncio.sleep(self.seconds)


class SegmentSensor(BaseOperator):
    """Ends when there is feedback to curate."""

    ui_color = "#f3efe3"

    def __init__(self, *, store_uri: str, queue: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.store_uri = store_uri
        self.queue = queue

    def execute(self, context: Any) -> list[str]:
        """Look once, then wait in the triggerer."""
        found = fresh_segments(self.store_uri)
        if not found:
            self.log.info("no new feedback in %s; waiting", self.store_uri)
            self.defer(trigger=SegmentTrigger(self.store_uri, queue=self.queue), method_name="seen")
        return self.seen(context, found)

    def seen(self, context: Any, event: list[str]) -> list[str]:
        """Say what was found."""
        self.log.info("%d sealed files of feedback: %s", len(event), ", ".join(event[:5]) + (" …" if len(event) > 5 else ""))
        return event
