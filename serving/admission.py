"""Who may decode now: at most `max_batch` at once, a bounded queue for the rest, and turns between tenants rather than between requests.

The queue is as long as `queue_seconds` of work, so that who is let in is answered as soon under a flood as in a rush. A full one refuses at
once, with the time after which another try has a chance. As tenants take turns, one whose line is longer than the others' would wait longer
than that: a tenant's share is an equal part of the queue among those who wait, and at most half. Beyond its share it is told to slow down
(429); when all of the queue is full everybody is (503).
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from prometheus_client import Gauge, Histogram

from flywheel.errors import TransientError
from serving.settings import serving

WAITING = Gauge("flywheel_queued_requests", "Requests waiting for a batch")
QUEUE_LIMIT = Gauge("flywheel_queue_limit_requests", "How many may wait; more are refused")
QUEUED = Histogram("flywheel_queue_seconds", "Time a request waits for its batch", buckets=(0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30))
RUNNING = Gauge("flywheel_running_requests", "Requests being decoded")


class Busy(TransientError):
    """Not now: `status` is 429 for one who asks too much, 503 when all do, and `retry_after` the seconds to wait."""

    def __init__(self, what: str, *, status: int, retry_after: float) -> None:
        self.status, self.retry_after = status, max(1, round(retry_after))
        super().__init__(what, where="serving", mend=f"Ask again in {self.retry_after} s.")


class Admission:
    """The queue in front of the engine. Lives on one event loop."""

    def __init__(self) -> None:
        self.limit, self.most, self.longest = serving().max_queue, serving().max_batch, serving().queue_seconds
        self.running = self.waiting = 0
        self.seconds = 1.0  # a request's time at the engine, lately
        self._tenants: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        QUEUE_LIMIT.set(self.room)

    @property
    def room(self) -> int:
        """How many may wait: at the pace of late, the last of them for `queue_seconds`."""
        return max(1, min(self.limit, int(self.longest * self.most / self.seconds)))

    @asynccontextmanager
    async def turn(self, tenant: str) -> AsyncIterator[None]:
        """Until the end of the block one of the places is ours. Raises Busy when the queue is full."""
        began = time.monotonic()
        if self.running >= self.most or self.waiting:
            await self._wait(tenant)
        else:
            self._count(running=1)
        admitted = time.monotonic()
        QUEUED.observe(admitted - began)
        try:
            yield
        finally:
            self.seconds += 0.05 * (time.monotonic() - admitted - self.seconds)
            QUEUE_LIMIT.set(self.room)
            self._count(running=-1)
            self._next()

    async def _wait(self, tenant: str) -> None:
        line, room = self._tenants.get(tenant, ()), self.room
        patience = (self.waiting + 1) / self.most * self.seconds
        if self.waiting >= room:
            raise Busy(f"{self.waiting} requests are waiting", status=503, retry_after=patience)
        tenants = len(self._tenants.keys() | {tenant})
        if len(line) >= max(1, room // max(2, tenants)):
            raise Busy(f"{len(line)} requests of {tenant} are waiting", status=429, retry_after=patience)
        place: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tenants.setdefault(tenant, deque()).append(place)
        self._count(waiting=1)
        try:
            await place  # whoever wakes us has counted us as running
        except asyncio.CancelledError:
            if place.done() and not place.cancelled():
                self._count(running=-1)
                self._next()
            elif place in self._tenants.get(tenant, ()):
                self._leave(tenant, place)
            raise

    def _leave(self, tenant: str, place: asyncio.Future[None]) -> None:
        line = self._tenants[tenant]
        line.remove(place)
        if not line:
            del self._tenants[tenant]
        self._count(waiting=-1)

    def _next(self) -> None:
        """Give free places to the tenants in turn."""
        while self.running < self.most and self._tenants:
            tenant, line = next(iter(self._tenants.items()))
            place = line[0]
            self._leave(tenant, place)
            if tenant in self._tenants:
                self._tenants.move_to_end(tenant)
            if not place.cancelled():  # one that gave up this very moment has not left yet
                self._count(running=1)
                place.set_result(None)

    def _count(self, running: int = 0, waiting: int = 0) -> None:
        self.running += running
        self.waiting += waiting
        RUNNING.set(self.running)
        WAITING.set(self.waiting)
