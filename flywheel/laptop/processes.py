"""The stack's processes, known by what is in their environment, whoever their parent is now.

The process manager starts each service through this module, which first ends what a killed one left behind: a child that
still holds the port would keep its successor from starting. By hand: python -m flywheel.laptop.processes SERVICE COMMAND …
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress

import psutil

HOME = "FLYWHEEL_HOME"
MARK = "FLYWHEEL_SERVICE"


def running(home: str, service: str | None = None) -> Iterator[psutil.Process]:
    """Every other process of this home's stack, or of one of its services."""
    for process in psutil.process_iter():
        try:
            environment = process.environ()
            alive = process.status() != psutil.STATUS_ZOMBIE
        except psutil.Error:
            continue
        name = environment.get(MARK)
        if alive and environment.get(HOME) == home and name and service in (None, name) and process.pid != os.getpid():
            yield process


def end(home: str, service: str | None = None, seconds: float = 10) -> None:
    """End them: politely, and after `seconds` not. PostgreSQL recovers from its log."""
    found = list(running(home, service))
    for process in found:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    _, stubborn = psutil.wait_procs(found, timeout=seconds)
    for process in [*stubborn, *running(home, service)]:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(stubborn, timeout=5)


if __name__ == "__main__":
    end(os.environ[HOME], sys.argv[1], seconds=3)
    os.execvp(sys.argv[2], sys.argv[2:])
