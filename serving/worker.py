"""What is owed once feedback is committed: segments in the store, assessments in MLflow, fresh features.

    python -m serving.worker [--host 127.0.0.1] [--port 18001]      /healthz: 503 when a step has not come to its end for minutes

A server does it beside its answers, unless FLYWHEEL_SERVING_FEEDBACK_STEPS=false: then this process does, for all replicas. Any number may
run, since the ledger's locks let one work at a time. On SIGTERM the step that runs is finished.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from flywheel import assessments, features, logs
from flywheel.errors import FlywheelError, from_os_error
from serving import feedback

log = logging.getLogger("flywheel.serving")
SEAL_SECONDS = 5.0
LOG_SECONDS = 2.0  # between steps of 100 records: in a server the door comes first
STALE_SECONDS = 300.0

Step = tuple[float, Callable[[], Any]]
ended: dict[str, float] = {}  # when each step came to its end, well or not


async def every(seconds: float, step: Callable[[], Any]) -> None:
    """Call a blocking step in a thread, again and again; a step that fails is told once and tried again."""
    complaint = ""
    name = f"{step.__module__}.{step.__qualname__}"
    ended[name] = time.monotonic()
    while True:
        try:
            await asyncio.to_thread(step)
            complaint = ""
        except Exception as error:  # it must live through whatever the database, the store or MLflow does
            known = from_os_error(error) if isinstance(error, OSError) else error
            sentence = known.sentence if isinstance(known, FlywheelError) else f"{type(error).__name__}: {error}"
            if sentence != complaint:
                complaint = sentence
                log.error("%s", complaint)
        ended[name] = time.monotonic()
        await asyncio.sleep(seconds)


def steps() -> tuple[Step, ...]:
    """The steps and the seconds between two of each."""
    return ((SEAL_SECONDS, feedback.housekeeping), (LOG_SECONDS, assessments.log_pending), (LOG_SECONDS, features.Pusher().step))


def stale() -> list[str]:
    """The steps that hang."""
    return [name for name, at in ended.items() if time.monotonic() - at > STALE_SECONDS]


class Health(BaseHTTPRequestHandler):
    """200, or 503 with the steps that hang."""

    def do_GET(self) -> None:
        """Answer whatever is asked."""
        found = stale()
        self.send_response(503 if found else 200)
        self.end_headers()
        self.wfile.write((f"no end of {', '.join(found)}\n" if found else "ok\n").encode())

    def log_message(self, format: str, *args: Any) -> None:
        """No line for each probe."""


async def work() -> None:
    """Until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    tasks = [asyncio.create_task(every(*one)) for one in steps()]
    await stop.wait()
    for task in tasks:
        task.cancel()  # what runs in a thread goes on: the loop's end waits for it


def main() -> None:
    """Work, and answer the probes."""
    parser = argparse.ArgumentParser(prog="python -m serving.worker")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=18001)
    given = parser.parse_args()
    logs.setup("%(asctime)s %(message)s")
    with ThreadingHTTPServer((given.host, given.port), Health) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        asyncio.run(work())
        server.shutdown()


if __name__ == "__main__":
    main()
