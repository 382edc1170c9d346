"""Serving whose versions may be bad: FAULTS='{"2": "slower"}' or "failing".   FAULTS=... python -m tests.serving.faulty --port 18000"""

import asyncio
import json
import os
from contextlib import aclosing

import serving.app
from flywheel.errors import TransientError
from serving.__main__ import main
from serving.engines import create


class Faulty:
    """A loaded version with its fault."""

    def __init__(self, model, fault):
        self.model, self.fault, self.version, self.can = model, fault, model.version, model.can

    async def stream(self, turns, decoding):
        if self.fault == "failing":
            raise TransientError("it breaks", where=f"version {self.version}", mend="Roll back.")
        async with aclosing(self.model.stream(turns, decoding)) as pieces:
            async for piece in pieces:
                await asyncio.sleep(0.05)
                yield piece

    def close(self):
        self.model.close()


class Engine:
    """The settings' engine, with faults put in."""

    def __init__(self):
        self.real, self.faults = create(), json.loads(os.environ["FAULTS"])

    def load(self, wanted):
        model = self.real.load(wanted)
        return Faulty(model, self.faults[wanted.version]) if wanted.version in self.faults else model


if __name__ == "__main__":
    serving.app.create = Engine
    main()
