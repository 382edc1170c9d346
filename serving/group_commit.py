"""Records that come while one commit runs are committed together by the next: under load a record costs a fraction of a commit."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, TypeVar

GROUP = 128  # records a commit
Record = TypeVar("Record")
Stored = TypeVar("Stored")


class GroupCommit(Generic[Record, Stored]):
    """`commit` blocks, and gives for each record what came of it or why it was not stored. Lives on one event loop."""

    def __init__(self, commit: Callable[[list[Record]], Sequence[Stored | Exception]]) -> None:
        self.commit = commit
        self.waiting: list[tuple[Record, asyncio.Future[Stored]]] = []
        self.writer: asyncio.Task[None] | None = None

    async def add(self, record: Record) -> Stored:
        """What came of this record, once it is committed. Raises what `commit` raises, or gives for it."""
        future: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self.waiting.append((record, future))
        if self.writer is None or self.writer.done():
            self.writer = asyncio.create_task(self._write())
        return await future

    async def _write(self) -> None:
        while self.waiting:
            group, self.waiting = self.waiting[:GROUP], self.waiting[GROUP:]
            done: Sequence[Stored | Exception]
            try:
                done = await asyncio.to_thread(self.commit, [record for record, _ in group])
            except Exception as error:  # each who waits is told
                done = [error] * len(group)
            for (_, future), result in zip(group, done, strict=True):
                with suppress(asyncio.InvalidStateError):  # its client has gone
                    if isinstance(result, Exception):
                        future.set_exception(result)
                    else:
                        future.set_result(result)
