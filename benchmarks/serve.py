"""Serving, beside the seed recipe.  make bench NAME=serve

Answers: SmolLM2-135M, 64 new tokens, greedy, 1 and 16 clients, no answer cache: the service on its embedded engine; the peer is what most
write first, a transformers `pipeline` called in an async handler. Gateway: the service with an engine that answers at once, with keys, rate limits, metrics, a real
PostgreSQL, and one feedback for every tenth answer, at 300 requests a second. On a busy machine CPU-seconds say more than wall time.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
import uuid
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import yaml
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.feedback import Connection, cpu, database, free_port, process
from flywheel import base_model
from flywheel.settings import REPOSITORY, settings
from serving.auth import new_key

TOKENS, CLIENTS, ASKED, RATE, SECONDS = 64, 16, 32, 300, 10
QUESTIONS = [f"What does the Python function number {n} do?" for n in range(ASKED)]
peer = FastAPI()


class PeerIn(BaseModel):
    """What the peer takes."""

    instruction: str
    max_new_tokens: int = TOKENS


@peer.get("/readyz")
def ready() -> dict[str, str]:
    """The model is loaded with the module."""
    return {"status": "ready"}


if os.environ.get("PEER_MODEL"):
    from transformers import pipeline

    pipe = pipeline("text-generation", model=os.environ["PEER_MODEL"])

    @peer.post("/v1/generate")
    async def peer_generate(body: PeerIn) -> dict[str, Any]:
        """A synchronous call in an async handler."""
        said = pipe([{"role": "user", "content": body.instruction}], max_new_tokens=body.max_new_tokens, do_sample=False)
        return {"response": said[0]["generated_text"][-1]["content"]}


async def ask(url: str, clients: int, questions: list[str]) -> list[float]:
    """Ask every question over so many clients; the seconds of each."""
    seconds: list[float] = []
    queue = iter(questions)

    async def client(http: httpx.AsyncClient) -> None:
        for question in queue:
            began = time.perf_counter()
            reply = await http.post("/v1/generate", json={"instruction": question, "max_new_tokens": TOKENS})
            reply.raise_for_status()
            seconds.append(time.perf_counter() - began)

    async with httpx.AsyncClient(base_url=url, timeout=600) as http:
        await asyncio.gather(*(client(http) for _ in range(clients)))
    return seconds


def answers(url: str, server: psutil.Process, clients: int, count: int) -> dict[str, float]:
    """Requests a second and a CPU-second, and the median latency."""
    asyncio.run(ask(url, 1, ["Warm up, please."]))
    before, began = cpu(server), time.perf_counter()
    seconds = asyncio.run(ask(url, clients, QUESTIONS[:count]))
    wall, used = time.perf_counter() - began, cpu(server) - before
    return {"requests_a_second": round(count / wall, 3), "requests_a_cpu_second": round(count / used, 3), "p50_s": round(float(np.median(seconds)), 2)}


async def steadily(port: int, key: str) -> list[float]:
    """Requests at a fixed rate, whether or not the ones before are answered; a feedback for every tenth. Seconds of each answer, from when it was due."""
    seconds: list[float] = []
    free: asyncio.Queue[Connection] = asyncio.Queue()
    for _ in range(CLIENTS * 4):
        free.put_nowait(await Connection().open(port, key))

    async def one(number: int, due: float) -> None:
        connection = await free.get()
        answer = await connection.post("/v1/generate", b'{"instruction": "question %d", "cache": false}' % number)
        seconds.append(time.perf_counter() - due)
        if number % 10 == 0:
            body = {"answer_id": json.loads(answer)["answer_id"], "idempotency_key": uuid.uuid4().hex, "thumb": "up"}
            await connection.post("/v1/feedback", json.dumps(body).encode())
        free.put_nowait(connection)

    for number in range(CLIENTS * 4):  # what a process does once is not what a request costs
        await one(number, time.perf_counter())
    seconds.clear()
    began, tasks = time.perf_counter(), []
    for number in range(RATE * SECONDS):
        await asyncio.sleep(max(0.0, began + number / RATE - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number, time.perf_counter())))
    await asyncio.gather(*tasks)
    return seconds


def gateway(start: Any) -> dict[str, float]:
    """p50 and p99 in milliseconds, and the server's CPU-milliseconds a request."""
    key, entry = new_key("bench", ["generate", "feedback"])
    extra = {
        "FLYWHEEL_SERVING_KEYS": yaml.safe_dump([entry]),
        "FLYWHEEL_SERVING_RATE_LIMITS": '{"standard": "1000000/minute"}',
        "FLYWHEEL_SERVING_AUTH": "required",
    }
    with start("benchmarks.gateway:app", extra) as (url, server):
        before = cpu(server)
        seconds = asyncio.run(steadily(int(url.rsplit(":", 1)[1]), key))
        used = (cpu(server) - before) / len(seconds)
    p50, p99 = np.quantile(seconds, (0.5, 0.99)) * 1000
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "cpu_ms_a_request": round(used * 1000, 2)}


def main() -> int:
    """Print a line a part, then the JSON; 1 when a goal is missed."""
    from contextlib import contextmanager

    base = base_model.local_folder(base_model.BUILT_IN, settings().home / "cache")
    converted = settings().home / "cache"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["FLYWHEEL_HOME"] = name
        os.environ["FLYWHEEL_MLFLOW_URL"] = f"http://127.0.0.1:{free_port()}"
        converted.mkdir(parents=True, exist_ok=True)
        (folder / "cache").symlink_to(converted)
        (folder / "config.yaml").write_text(f"model: {{base: {json.dumps(str(base))}}}\ningest: {{sources: [{{kind: docs, licence: x, consent: y}}]}}")

        @contextmanager
        def start(app: str, extra: dict[str, str]) -> Any:
            port = free_port()
            environment = {**os.environ, "FLYWHEEL_CONFIG": str(folder / "config.yaml"), "PYTHONPATH": str(REPOSITORY), "FLYWHEEL_SERVING_AUTH": "off", **extra}
            command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), "--no-access-log", "--log-level", "error"]
            url = f"http://127.0.0.1:{port}"
            with process(command, f"{url}/healthz", env=environment, cwd=REPOSITORY) as server:
                until = time.monotonic() + 500
                while httpx.get(f"{url}/readyz", timeout=60).status_code != 200 and time.monotonic() < until:
                    time.sleep(0.5)
                yield url, server

        with database(folder):
            settings.cache_clear()
            own = gateway(start)
            print(f"gateway: {own}", flush=True)
            with start("benchmarks.standing:app", {"FLYWHEEL_SERVING_CACHE_ANSWERS": "0"}) as (url, server):
                ours = {clients: answers(url, server, clients, count) for clients, count in ((1, 6), (CLIENTS, ASKED))}
            print(f"ours: {ours}", flush=True)
            with start("benchmarks.serve:peer", {"PEER_MODEL": str(base)}) as (url, server):
                theirs = {clients: answers(url, server, clients, count) for clients, count in ((1, 4), (CLIENTS, 16))}
            print(f"seed recipe: {theirs}", flush=True)
    ratios = {
        "requests_a_second_16": round(ours[CLIENTS]["requests_a_second"] / theirs[CLIENTS]["requests_a_second"], 2),
        "requests_a_cpu_second_16": round(ours[CLIENTS]["requests_a_cpu_second"] / theirs[CLIENTS]["requests_a_cpu_second"], 2),
        "latency_1": round(ours[1]["p50_s"] / theirs[1]["p50_s"], 2),
    }
    met = ratios["requests_a_second_16"] >= 6 and ratios["latency_1"] <= 1 and own["p50_ms"] <= 2 and own["p99_ms"] <= 10
    goal = f">= 6 times the seed recipe's requests/s at {CLIENTS} clients, no worse with one; gateway p50 <= 2 ms, p99 <= 10 ms at {RATE}/s"
    result = {
        "name": "serve",
        "ours": {"gateway": own, "answers": ours},
        "peers": {"pipeline in an async handler": theirs},
        "ratios": ratios,
        "goal": goal,
        "met": met,
    }
    print(json.dumps(result))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
