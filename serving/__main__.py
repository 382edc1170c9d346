"""Serve:  python -m serving [--host 127.0.0.1] [--port 18000]

On SIGTERM /readyz says no for `drain_seconds` while requests are still taken, so that a load balancer can turn away; then nothing new is
taken, what runs is finished, and the process leaves. A second signal leaves at once.
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
    """HTTP whose client must send a request's head within `body_seconds` of connecting, and of the last reply (keep-alive sees to that)."""

    def connection_made(self, transport: Any) -> None:
        """Set the alarm."""
        super().connection_made(transport)
        self.loop.call_later(serving().body_seconds, self._begun)

    def _begun(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


class Server(uvicorn.Server):
    """uvicorn's, which says that it leaves before it does."""

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """The first signal begins to drain; the second ends it."""
        if app.state._state.get("draining"):
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
