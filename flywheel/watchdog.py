"""A stage that says nothing for too long hangs: where it is goes into its log, a marker into the store, and by policy it is ended and tried again.

Inside the stage's own process, so that it is the same as a subprocess and as a pod. FLYWHEEL_SILENT_MINUTES and FLYWHEEL_SILENT are the policy;
`flywheel.watch` tells people of the marker.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime

from flywheel import store
from flywheel.errors import FlywheelError, TransientError
from flywheel.settings import settings

log = logging.getLogger("flywheel")
MARKER = "silent.json"
GRACE_SECONDS = 5.0  # between SIGTERM, which lets a checkpoint be written, and the end


class Watchdog(threading.Thread):
    """Barks once when nothing was said for so many minutes; `alive` is called with every line. `report` writes the termination message."""

    def __init__(self, stage: str, stage_uri: str, report: Callable[[str, FlywheelError], None]) -> None:
        super().__init__(name="watchdog", daemon=True)
        self._stage, self._uri, self._report = stage, stage_uri, report
        self.error: FlywheelError | None = None  # why it was ended
        self._last, self._over, self._limit = time.monotonic(), threading.Event(), settings().silent_minutes * 60

    def alive(self) -> None:
        """Something was said."""
        self._last = time.monotonic()

    def __enter__(self) -> Watchdog:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def run(self) -> None:
        """Look now and then."""
        while not self._over.wait(min(15.0, self._limit / 4)):
            if time.monotonic() - self._last >= self._limit:
                self.bark()
                self.alive()

    def bark(self) -> None:
        """Say where it is, leave the marker, and end the stage when that is the policy."""
        stop = settings().silent == "stop"
        frames = {t.name: sys._current_frames().get(t.ident or 0) for t in threading.enumerate() if t is not self}
        stacks = "\n".join(f"{name}:\n{''.join(traceback.format_stack(frame)[-6:])}" for name, frame in frames.items() if frame)
        log.warning("nothing was said for %.3g minutes%s; it is here:\n%s", self._limit / 60, ": it is stopped" if stop else "", stacks)
        told = {
            "stage": self._stage,
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "minutes": self._limit / 60,
            "stopped": stop,
            "where": stacks[-1500:],
        }
        try:
            store.write_bytes(store.join(self._uri, MARKER), json.dumps(told).encode())
        except (FlywheelError, OSError) as error:
            log.warning("the marker could not be written: %s", error)
        if stop:
            self._end()

    def _end(self) -> None:
        """SIGTERM to the stage and its children, a moment for a checkpoint, and out."""
        mend = "A retry goes on; FLYWHEEL_SILENT_MINUTES says how long is too long."
        self.error = error = TransientError(f"it said nothing for {self._limit / 60:.3g} minutes and was stopped", where=self._stage, mend=mend)
        self._report(self._stage, error)
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpgrp(), signal.SIGTERM)
        else:
            os.kill(os.getpid(), signal.SIGTERM)
        if not self._over.wait(GRACE_SECONDS):
            sys.stdout.flush()
            os._exit(error.exit_code)
