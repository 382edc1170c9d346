"""Serving at twice what it can, for ten minutes.  make bench NAME=overload  (MINUTES=1 for a look)

SmolLM2-135M on the embedded engine, 64 new tokens, no answer cache, four tenants. First what 16 clients get, one request after another: that
is the capacity, and once more at the end. Then requests come at twice that rate, whether or not the ones before are answered. Held against:
no crash, no status but 200, 429 and 503, admitted requests as fast in the last minute as in the first and never slower than the queue allows,
nine tenths of the tokens a second of capacity, and memory that does not grow.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from typing import Any

import httpx
import numpy as np
import psutil
import yaml

from benchmarks.feedback import Connection
from benchmarks.serve import CLIENTS, TOKENS, port_of, world
from serving.auth import new_key
from serving.settings import serving

MINUTES, TENANTS, FIRST = float(os.environ.get("MINUTES", "10")), 4, 48
LOST = 0  # the status of a request that was cut off


def body(number: int) -> bytes:
    """A question that nobody asked before."""
    return json.dumps({"instruction": f"What does the Python function number {number} do?", "max_new_tokens": TOKENS}).encode()


async def at_capacity(port: int, keys: list[str], start: int) -> dict[str, float]:
    """Requests and tokens a second that 16 clients get with the questions from that number on, and their seconds."""
    seconds: list[float] = []
    tokens: list[int] = []
    numbers = iter(range(start, start + FIRST))

    async def client(key: str) -> None:
        connection = await Connection().open(port, key)
        for number in numbers:
            began = time.perf_counter()
            tokens.append(json.loads(await connection.post("/v1/generate", body(number)))["answer_tokens"])
            seconds.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(client(keys[n % TENANTS]) for n in range(CLIENTS)))
    wall = time.perf_counter() - began
    return {
        "requests_a_second": FIRST / wall,
        "tokens_a_second": sum(tokens) / wall,
        "p50_s": float(np.median(seconds)),
        "p99_s": float(np.quantile(seconds, 0.99)),
    }


async def flood(port: int, keys: list[str], rate: float, server: psutil.Process) -> list[dict[str, Any]]:
    """What each minute was like: how many of each status, seconds of the admitted, their tokens a second, memory at its end in MiB."""
    minutes: list[dict[str, Any]] = []
    free: list[list[Connection]] = [[] for _ in keys]

    async def one(number: int, told: Counter[int], admitted: list[tuple[float, int]]) -> None:
        tenant = number % TENANTS
        connection = free[tenant].pop() if free[tenant] else await Connection().open(port, keys[tenant])
        began = time.perf_counter()
        try:
            status, answer = await connection.call("/v1/generate", body(number))
        except (OSError, asyncio.IncompleteReadError):
            told[LOST] += 1
            return
        told[status] += 1
        if status == 200:
            admitted.append((time.perf_counter() - began, json.loads(answer)["answer_tokens"]))
        free[tenant].append(connection)

    began, number, tasks = time.perf_counter(), 0, set()
    while len(minutes) < MINUTES:
        told: Counter[int] = Counter()
        admitted: list[tuple[float, int]] = []
        while number < rate * 60 * (len(minutes) + 1):
            await asyncio.sleep(max(0.0, began + number / rate - time.perf_counter()))
            task = asyncio.create_task(one(number, told, admitted))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            number += 1
        p50, p99 = np.quantile([seconds for seconds, _ in admitted], (0.5, 0.99)).round(2).tolist()
        tokens = round(sum(made for _, made in admitted) / 60)
        minutes.append({"told": dict(told), "p50_s": p50, "p99_s": p99, "tokens_a_second": tokens, "mib": server.memory_info().rss >> 20})
        print(minutes[-1], flush=True)
    await asyncio.gather(*tasks)
    return minutes


def main() -> int:
    """Print a line a minute, then the JSON; 1 when a goal is missed."""
    made = [new_key(f"tenant-{n}", ["generate"]) for n in range(TENANTS)]
    keys = [key for key, _ in made]
    extra = {
        "FLYWHEEL_SERVING_AUTH": "required", "FLYWHEEL_SERVING_KEYS": yaml.safe_dump([entry for _, entry in made]), "FLYWHEEL_SERVING_RATE_LIMITS": "{}",
        "FLYWHEEL_SERVING_CACHE_ANSWERS": "0",
    }  # fmt: skip
    with world() as (start, _, _), start("benchmarks.standing:app", extra) as (url, server):
        asyncio.run(at_capacity(port_of(url), keys, 10**6))
        capacity = asyncio.run(at_capacity(port_of(url), keys, 2 * 10**6))
        print(f"at capacity: {capacity}", flush=True)
        minutes = asyncio.run(flood(port_of(url), keys, 2 * capacity["requests_a_second"], server))
        after = asyncio.run(at_capacity(port_of(url), keys, 3 * 10**6))
        print(f"at capacity again: {after}", flush=True)
        alive = httpx.get(f"{url}/readyz", timeout=60).status_code == 200
    statuses = {status for minute in minutes for status in minute["told"]}
    served = sum(minute["told"].get(200, 0) for minute in minutes) / (60 * MINUTES)
    share = float(np.mean([minute["tokens_a_second"] for minute in minutes]) / np.mean([capacity["tokens_a_second"], after["tokens_a_second"]]))
    longest = serving().queue_seconds + capacity["p99_s"]
    ours = {
        "capacity": {key: round(value, 2) for key, value in capacity.items()}, "requests_a_second": round(served, 2), "share_of_capacity": round(share, 2),
        "tokens_a_second": [m["tokens_a_second"] for m in minutes], "statuses": sorted(statuses),
        "refused_share": round(1 - served / (2 * capacity["requests_a_second"]), 2), "p50_s": [m["p50_s"] for m in minutes], "p99_s": [m["p99_s"] for m in minutes],
        "mib": [m["mib"] for m in minutes],
    }  # fmt: skip
    met = alive and statuses <= {200, 429, 503} and share >= 0.9
    met = met and max(ours["p99_s"]) <= 1.25 * longest and ours["mib"][-1] <= 1.05 * ours["mib"][0]
    goal = f"alive, only 200/429/503, >= 90 % of the tokens a second of capacity, p99 <= {1.25 * longest:.0f} s in every minute (the queue's wait and an answer), memory <= +5 %"
    print(json.dumps({"name": "overload", "ours": ours, "peers": {}, "ratios": {}, "goal": goal, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
