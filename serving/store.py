"""Answers into the ledger: those that end while one commit runs are committed together by the next, as the door for feedback does it."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from flywheel import ledger

GROUP = 128  # answers a commit


class Store:
    """Commits answers; each is waited for. Lives on one event loop."""

    def __init__(self) -> None:
        self.waiting: list[tuple[ledger.NewAnswer, asyncio.Future[None]]] = []
        self.writer: asyncio.Task[None] | None = None

    async def add(self, answer: ledger.NewAnswer) -> None:
        """Until it is committed. Raises TransientError when the database is away."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((answer, future))
        if self.writer is None or self.writer.done():
            self.writer = asyncio.create_task(self._write())
        await future

    async def _write(self) -> None:
        while self.waiting:
            group, self.waiting = self.waiting[:GROUP], self.waiting[GROUP:]
            failed: Exception | None = None
            try:
                await asyncio.to_thread(ledger.add_answers, [answer for answer, _ in group])
            except Exception as error:  # each who waits is told
                failed = error
            for _, future in group:
                with suppress(asyncio.InvalidStateError):  # its client has gone
                    if failed:
                        future.set_exception(failed)
                    else:
                        future.set_result(None)
