"""The versions loaded side by side on one engine, and which of them answers whom.

What runs on a version keeps it: it is closed when the last answer is out. Beyond `max_versions` the one used longest ago leaves, never the
champion or the challenger.
"""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from prometheus_client import Counter, Gauge

from flywheel.errors import NotFound, TransientError
from flywheel.registry import Desired
from serving.engines.base import Model
from serving.settings import serving

LOADED = Gauge("flywheel_loaded_version", "1 for each version that is loaded", ["version"])
EVICTED = Counter("flywheel_evicted_versions_total", "Versions that left to make room for others")
BASE = "base"


@dataclass
class Entry:
    """A loaded version, how many answers run on it, and when it was used last."""

    model: Model
    running: int = 0
    used: float = field(default_factory=time.monotonic)
    leaving: bool = False


class Pool:
    """Thread-safe: the reconciler's thread loads, the event loop answers."""

    def __init__(self) -> None:
        self.desired = Desired()
        self._entries: dict[str, Entry] = {}
        self._lock = threading.Lock()
        self._loading: dict[str, asyncio.Task[None]] = {}
        self.load: Callable[[str], None] = self._unknown

    @staticmethod
    def _unknown(version: str) -> None:
        raise NotFound("there is no such version", where=f"version {version}", mend="GET /v1/models lists them.")

    @property
    def champion(self) -> str | None:
        """The version that answers who asks for none: the desired one, or the last that could be loaded. None before there is one."""
        return self._champion if self._champion in self._entries else next(iter(self._entries), None)

    _champion: str | None = None

    def versions(self) -> list[str]:
        """What is loaded."""
        return [name for name, entry in list(self._entries.items()) if not entry.leaving]

    def put(self, model: Model) -> None:
        """Take a loaded version in, and let the one used longest ago go when there are too many."""
        with self._lock:
            self._entries[model.version] = Entry(model)
        LOADED.labels(model.version).set(1)
        while len(self.versions()) > serving().max_versions and (name := self._oldest(model.version)):
            EVICTED.inc()
            self.drop(name)

    def _oldest(self, newest: str) -> str | None:
        keep = {newest, self._champion, self.desired.challenger_name}
        return min((name for name in self.versions() if name not in keep), key=lambda name: self._entries[name].used, default=None)

    def drop(self, version: str) -> None:
        """Let a version go as soon as nothing runs on it."""
        with self._lock:
            entry = self._entries.get(version)
            if entry is None:
                return
            entry.leaving = True
            if entry.running:
                return
            del self._entries[version]
        self._close(entry)

    def lead(self, version: str) -> None:
        """This loaded version is the champion from now on."""
        self._champion = version

    def route(self, person: str, asked: str = "") -> str:
        """The version that answers this person: the one asked for, the challenger for its share of people, else the champion.

        Raises TransientError when nothing is loaded yet.
        """
        if asked:
            return asked
        traffic = self.desired
        if traffic.live and traffic.share > 0 and traffic.challenger_name in self._entries:
            drawn = int.from_bytes(hashlib.sha256(f"{traffic.challenger} {person}".encode()).digest()[:4], "big") / 2**32
            if drawn < traffic.share:  # as the share grows, who has the challenger keeps it
                return traffic.challenger_name
        if self.champion is None:
            raise TransientError("no model is loaded yet", where="serving", mend="Ask again in a few seconds; /readyz tells when.")
        return self.champion

    async def ensure(self, version: str) -> None:
        """Load a version that is not there, once for all who wait for it. Raises what loading raises."""
        if version in self.versions():
            return
        task = self._loading.get(version)
        if task is None:
            task = self._loading[version] = asyncio.create_task(asyncio.to_thread(self.load, version))
            task.add_done_callback(lambda _: self._loading.pop(version, None))
        await asyncio.shield(task)

    @contextmanager
    def use(self, version: str) -> Iterator[Model]:
        """The version, kept loaded until the end of the block. Raises TransientError when it has just left."""
        with self._lock:
            entry = self._entries.get(version)
            if entry is None or entry.leaving:
                raise TransientError("this version has just been unloaded", where=f"version {version}", mend="Ask again.")
            entry.running += 1
            entry.used = time.monotonic()
        try:
            yield entry.model
        finally:
            with self._lock:
                entry.running -= 1
                last = entry.leaving and not entry.running
                if last:
                    self._entries.pop(version, None)
            if last:
                self._close(entry)

    @staticmethod
    def _close(entry: Entry) -> None:
        LOADED.labels(entry.model.version).set(0)
        entry.model.close()
