"""Serve:  python -m serving [--host 127.0.0.1] [--port 18000]

On SIGTERM /readyz says no for `drain_seconds` while requests are still taken, each on a connection that its reply closes, so that a load
balancer can turn away; then nothing new is taken, what runs is finished, and the process leaves. A second signal leaves at once.
"""

from __future__ import annotations

import argparse
import asyncio
from types import FrameType
from typing import Any

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from flywheel.settings import port, settings
from serving.app import app
from serving.settings import serving


class Patient(HttpToolsProtocol):
    """HTTP whose client has `body_seconds` for each request's head, and for the rest of a body that was answered before its end.

    uvicorn's own timer runs between requests only: a client that sends a byte now and then would stay for ever. So would one that never reads:
    it is cut off when nothing more fits on its way for `request_seconds`.
    """

    alarm: asyncio.TimerHandle | None = None
    stuck: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """A head is due."""
        super().connection_made(transport)
        self._arm()

    def on_message_begin(self) -> None:
        """The rest of the head is due."""
        super().on_message_begin()
        self._arm()

    def on_headers_complete(self) -> None:
        """Here it is; a body has the door's own limit."""
        self._disarm()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        """What is left of a body that nobody waits for is due."""
        super().on_response_complete()
        if self.cycle.more_body:
            self._arm()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is due any more."""
        self._disarm()
        if self.stuck is not None:
            self.stuck.cancel()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Its client should read."""
        super().pause_writing()
        self.stuck = self.loop.call_later(serving().request_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        super().resume_writing()
        if self.stuck is not None:
            self.stuck.cancel()

    def _arm(self) -> None:
        if self.alarm is None:
            self.alarm = self.loop.call_later(serving().body_seconds, self._late)

    def _disarm(self) -> None:
        if self.alarm is not None:
            self.alarm.cancel()
            self.alarm = None

    def _late(self) -> None:
        self.alarm = None
        if self.cycle is not None and not self.cycle.response_complete:
            self._arm()  # a request before it is still being answered
        elif not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's, which says that it leaves before it does."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins to drain; the second ends it."""
        if getattr(app.state, "draining", False):
            super().handle_exit(sig, frame)
            return
        app.state.draining = True
        asyncio.get_event_loop().call_later(serving().drain_seconds, super().handle_exit, sig, frame)


def main() -> None:
    """Until a signal comes."""
    parser = argparse.ArgumentParser(prog="python -m serving")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=port(settings().serving_url))
    given = parser.parse_args()
    Server(
        uvicorn.Config(
            app, host=given.host, port=given.port, loop="uvloop", http=Patient, access_log=False, server_header=False, timeout_keep_alive=15,
            timeout_graceful_shutdown=int(serving().request_seconds), h11_max_incomplete_event_size=64_000, backlog=2048,
        )
    ).run()  # fmt: skip


if __name__ == "__main__":
    main()
