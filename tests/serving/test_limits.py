"""Limits that replicas share, in a real Redis: counted together, nobody refused while it is away, and counted again when it is back."""

import asyncio
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress

import pytest

from serving.admission import Busy
from serving.auth import Principal
from serving.limits import AWAY, Limits
from tests.conftest import free_port

SERVER = shutil.which("redis-server") or shutil.which("valkey-server")
pytestmark = pytest.mark.skipif(not SERVER, reason="neither Redis nor Valkey is installed")
ADA, BO = (Principal(name=name, scopes=frozenset({"generate"})) for name in ("ada", "bo"))


def start(port):
    process = subprocess.Popen([SERVER, "--port", str(port), "--bind", "127.0.0.1", "--save", ""], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 30
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return process
        time.sleep(0.05)
    raise AssertionError("Redis did not start")


@pytest.fixture
def redis(behaviour):
    """A server that is killed by calling what this gives, which then gives a way to start it again."""
    port = free_port()
    running = [start(port)]
    behaviour(limits_url=f"redis://127.0.0.1:{port}", rate_limits='{"standard": "4/minute"}', quotas='{"standard": "100/day"}')

    def kill():
        running[0].send_signal(signal.SIGKILL)
        running[0].wait()
        return lambda: running.__setitem__(0, start(port))

    yield kill
    running[0].kill()
    running[0].wait()


async def told(replicas, caller, count):
    """What so many requests get, each at another replica than the one before."""
    statuses = []
    for number in range(count):
        try:
            await replicas[number % len(replicas)].admit(caller)
            statuses.append(200)
        except Busy as busy:
            assert busy.retry_after >= 1
            statuses.append(busy.status)
    return statuses


def test_replicas_count_together_and_a_dead_redis_refuses_nobody(redis):
    async def play():
        replicas = [Limits(), Limits()]
        assert await told(replicas, ADA, 6) == [200] * 4 + [429] * 2
        assert await told(replicas, BO, 2) == [200] * 2  # another caller has a count of its own
        await replicas[0].spend(BO, 60)
        await replicas[1].spend(BO, 60)
        assert await told(replicas, BO, 2) == [429] * 2  # the tokens that both replicas gave are spent
        revive, before = redis(), AWAY._value.get()
        assert await told(replicas, ADA, 6) == [200] * 6
        await replicas[0].spend(ADA, 60)
        assert AWAY._value.get() == before + 7
        revive()
        assert await told(replicas, ADA, 6) == [200] * 4 + [429] * 2

    asyncio.run(play())
