"""Serving as a process of its own, for what no test client shows: signals, sockets, and several of them.

    python -m tests.serving.processes --port 18000

serves with an engine of words: as many as are asked for, WORD_SECONDS apart, each WORD_LENGTH characters. It needs no registry.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import httpx

import serving.app
from flywheel.settings import REPOSITORY
from serving.engines.base import Piece
from tests.conftest import free_port


class Words:
    """A version that counts."""

    version, can = "base", frozenset()

    async def stream(self, turns, decoding):
        for number in range(decoding.max_tokens):
            await asyncio.sleep(float(os.environ.get("WORD_SECONDS", "0")))
            yield Piece(f"{number} ".ljust(int(os.environ.get("WORD_LENGTH", "0"))))
        yield Piece("", (), "length", 1, decoding.max_tokens)

    def close(self):
        pass


class Still:
    """In the reconciler's place: loads the version of words, once."""

    def __init__(self, pool, _engine):
        pool.put(Words())
        pool.lead("base")

    def step(self):
        pass


class Server:
    """One process, and a client of it."""

    def __init__(self, module: str, environment: dict[str, str]) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        command = [sys.executable, "-m", module, "--port", str(self.port)]
        everything = {**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment}
        self.process = subprocess.Popen(command, cwd=REPOSITORY, env=everything, start_new_session=True)
        self.client = httpx.Client(base_url=self.url, timeout=60)

    def wait(self, path: str = "/readyz", seconds: float = 180) -> Server:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            assert self.process.poll() is None, "serving has ended"
            with suppress(httpx.HTTPError):
                if self.client.get(path).status_code == 200:
                    return self
            time.sleep(0.1)
        raise AssertionError(f"serving is not ready: {self.client.get('/readyz').text}")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def serve(module: str = "tests.serving.processes", **environment: str) -> Iterator[Server]:
    """A server until the end of the block."""
    made = Server(module, environment)
    try:
        yield made.wait()
    finally:
        made.kill()


if __name__ == "__main__":
    from serving.__main__ import main

    serving.app.create = lambda: None
    serving.app.Reconciler = Still
    main()
