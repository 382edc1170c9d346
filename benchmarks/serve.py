"""Serving, beside the seed recipe, the bare engine and, where it is installed, LiteLLM's proxy.  make bench NAME=serve

Answers: SmolLM2-135M, 64 new tokens, greedy, 1 and 16 clients, no answer cache: the service on its embedded engine; the peer is what most
write first, a transformers `pipeline` called in an async handler. Engine: the same engine with nothing around it (`benchmarks.bare`), in
turns with the service: tokens a second with 16 clients, and the first token with one; in several pairs of processes, for each process has a
speed of its own. Gateway: the service with an engine that answers at once, with keys, rate limits, metrics, a real PostgreSQL, and one
feedback for every tenth answer, at 300 requests a second; then as many as it can, beside LiteLLM with an answer of its own:
LITELLM=/folder/bin/litellm, from an environment with `litellm[proxy]`.
On a busy machine CPU-seconds say more than wall time.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
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
PAIRS, ROUNDS, FIRSTS, MOST = 4, 2, 6, 1500  # services and engines, turns of each pair, first tokens in each, requests to each gateway
Start = Callable[[str, dict[str, str]], AbstractContextManager[tuple[str, psutil.Process]]]
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


def port_of(url: str) -> int:
    """The port of a server's address."""
    return int(url.rsplit(":", 1)[1])


async def flat_out(port: int, path: str, key: str, bodies: list[bytes]) -> None:
    """Every body over 16 connections, as fast as they are answered."""
    queue = iter(bodies)

    async def client() -> None:
        connection = await Connection().open(port, key)
        for body in queue:
            await connection.post(path, body)

    await asyncio.gather(*(client() for _ in range(CLIENTS)))


def throughput(port: int, server: psutil.Process, key: str) -> float:
    """Chat completions a CPU-second of the server's."""
    bodies = [
        json.dumps({"model": settings().model_name, "messages": [{"role": "user", "content": f"question {n}"}], "max_tokens": 8}).encode() for n in range(MOST)
    ]
    asyncio.run(flat_out(port, "/v1/chat/completions", key, bodies[: MOST // 5]))
    before = cpu(server)
    asyncio.run(flat_out(port, "/v1/chat/completions", key, bodies))
    return round(MOST / (cpu(server) - before), 1)


def gateway(start: Start) -> dict[str, float]:
    """p50 and p99 in milliseconds, the server's CPU-milliseconds a request, and the most requests a CPU-second."""
    key, entry = new_key("bench", ["generate", "feedback"])
    extra = {
        "FLYWHEEL_SERVING_KEYS": yaml.safe_dump([entry]),
        "FLYWHEEL_SERVING_RATE_LIMITS": '{"standard": "1000000/minute"}',
        "FLYWHEEL_SERVING_AUTH": "required",
        "FLYWHEEL_SERVING_CACHE_ANSWERS": "0",
    }
    with start("benchmarks.gateway:app", extra) as (url, server):
        before = cpu(server)
        seconds = asyncio.run(steadily(port_of(url), key))
        used = (cpu(server) - before) / len(seconds)
        most = throughput(port_of(url), server, key)
    p50, p99 = np.quantile(seconds, (0.5, 0.99)) * 1000
    return {"p50_ms": round(float(p50), 2), "p99_ms": round(float(p99), 2), "cpu_ms_a_request": round(used * 1000, 2), "requests_a_cpu_second": most}


def proxy(folder: Path) -> dict[str, float] | None:
    """LiteLLM's proxy with a key and an answer of its own; None where it is not installed."""
    program, key = os.environ.get("LITELLM"), "sk-bench"
    if not program:
        return None
    model = {"model_name": settings().model_name, "litellm_params": {"model": "openai/none", "api_key": "none", "mock_response": "yes"}}
    (folder / "litellm.yaml").write_text(yaml.safe_dump({"model_list": [model], "general_settings": {"master_key": key}}))
    port = free_port()
    command = [program, "--config", str(folder / "litellm.yaml"), "--host", "127.0.0.1", "--port", str(port)]
    with process(command, f"http://127.0.0.1:{port}/health/liveliness", env={**os.environ, "LITELLM_LOG": "ERROR"}, cwd=folder) as server:
        return {"requests_a_cpu_second": throughput(port, server, key)}


async def first_token(port: int, question: str) -> float:
    """Seconds until a stream's first text is here, over a connection that is open; the rest is read, too."""
    connection = await Connection().open(port)
    body = json.dumps({"messages": [{"role": "user", "content": question}], "max_tokens": TOKENS, "stream": True}).encode()
    began = time.perf_counter()
    connection.writer.write(b"POST /v1/chat/completions HTTP/1.1\r\n%bConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (connection.head, len(body), body))
    await connection.reader.readuntil(b'"content"')
    seconds = time.perf_counter() - began
    await connection.reader.read()
    return seconds


async def written(port: int, questions: list[str]) -> int:
    """The tokens of every answer, asked over 16 connections."""
    queue, tokens = iter(questions), 0

    async def client() -> None:
        nonlocal tokens
        connection = await Connection().open(port)
        for question in queue:
            body = json.dumps({"instruction": question, "max_new_tokens": TOKENS}).encode()
            made = json.loads(await connection.post("/v1/generate", body))["answer_tokens"]
            tokens += made  # not in one line: it would add to what the sum was before the wait

    await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return tokens


def beside_engine(url: str, server: psutil.Process, base: Path) -> list[tuple[float, float, float]]:
    """Turns with the bare engine: the service's tokens a second and a CPU-second as shares of its, and how many milliseconds later its first token is."""
    bare = subprocess.Popen([sys.executable, "-m", "benchmarks.bare", str(base)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)
    assert bare.stdin and bare.stdout
    found: list[tuple[float, float, float]] = []

    def engine(questions: list[str], clients: int) -> dict[str, float]:
        print(json.dumps({"questions": questions, "clients": clients, "tokens": TOKENS}), file=bare.stdin, flush=True)
        return dict(json.loads(bare.stdout.readline()))

    try:
        bare.stdout.readline()
        for turn in range(-1, ROUNDS):  # the first does not count
            questions = [f"What does function {n} of module {turn} do?" for n in range(2 * CLIENTS)]
            alone, one = engine(questions, CLIENTS), engine(questions[:FIRSTS], 1)
            before, began = cpu(server), time.perf_counter()
            tokens = asyncio.run(written(port_of(url), questions))
            seconds, used = time.perf_counter() - began, cpu(server) - before
            first = float(np.median([asyncio.run(first_token(port_of(url), question)) for question in questions[:FIRSTS]])) * 1000
            if turn >= 0:
                shares = tokens / seconds / (alone["tokens"] / alone["seconds"]), tokens / used / (alone["tokens"] / alone["cpu_seconds"])
                found.append((*shares, first - one["first_ms"]))
            print(
                f"engine: {alone['tokens'] / alone['seconds']:.0f} tokens/s, ours {tokens / seconds:.0f}; first {one['first_ms']:.1f} ms, ours {first:.1f}",
                flush=True,
            )
    finally:
        bare.kill()
        bare.wait()
    return found


@contextmanager
def world() -> Iterator[tuple[Start, Path, Path]]:
    """A home with a database and the base model: a way to start an application on it until a block's end, the base's folder, and the home."""
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
        def start(app: str, extra: dict[str, str]) -> Iterator[tuple[str, psutil.Process]]:
            port = free_port()
            environment = {**os.environ, "FLYWHEEL_CONFIG": str(folder / "config.yaml"), "PYTHONPATH": str(REPOSITORY), "FLYWHEEL_SERVING_AUTH": "off", **extra}
            command = [sys.executable, "-m", "uvicorn", app, "--host", "127.0.0.1", "--port", str(port), "--no-access-log", "--log-level", "error"]
            command += ["--timeout-keep-alive", "3600"]  # longer than any client here idles
            url = f"http://127.0.0.1:{port}"
            with process(command, f"{url}/healthz", env=environment, cwd=REPOSITORY) as server:
                until = time.monotonic() + 500
                while httpx.get(f"{url}/readyz", timeout=60).status_code != 200 and time.monotonic() < until:
                    time.sleep(0.5)
                yield url, server

        with database(folder):
            settings.cache_clear()
            yield start, base, folder


def main() -> int:
    """Print a line a part, then the JSON; 1 when a goal is missed."""
    with world() as (start, base, folder):
        own = gateway(start)
        print(f"gateway: {own}", flush=True)
        litellm = proxy(folder)
        print(f"LiteLLM's proxy: {litellm or 'not installed'}", flush=True)
        standing = {"FLYWHEEL_SERVING_CACHE_ANSWERS": "0", "FLYWHEEL_SERVING_RATE_LIMITS": "{}"}
        with start("benchmarks.standing:app", standing) as (url, server):
            ours = {clients: answers(url, server, clients, count) for clients, count in ((1, 6), (CLIENTS, ASKED))}
            print(f"ours: {ours}", flush=True)
        turns: list[tuple[float, float, float]] = []
        for _ in range(PAIRS):
            with start("benchmarks.standing:app", standing) as (url, server):
                turns += beside_engine(url, server, base)
        medians = np.median(turns, axis=0).round(3).tolist()
        engine = dict(zip(("tokens_a_second", "tokens_a_cpu_second", "first_token_later_ms"), medians, strict=True))
        print(f"beside the bare engine: {engine}", flush=True)
        with start("benchmarks.serve:peer", {"PEER_MODEL": str(base)}) as (url, server):
            theirs = {clients: answers(url, server, clients, count) for clients, count in ((1, 4), (CLIENTS, 16))}
        print(f"seed recipe: {theirs}", flush=True)
    ratios = {
        "requests_a_second_16": round(ours[CLIENTS]["requests_a_second"] / theirs[CLIENTS]["requests_a_second"], 2),
        "requests_a_cpu_second_16": round(ours[CLIENTS]["requests_a_cpu_second"] / theirs[CLIENTS]["requests_a_cpu_second"], 2),
        "latency_1": round(ours[1]["p50_s"] / theirs[1]["p50_s"], 2),
        "engine": engine,
    }
    met = ratios["requests_a_second_16"] >= 6 and ratios["latency_1"] <= 1 and own["p50_ms"] <= 2 and own["p99_ms"] <= 10
    met = met and engine["tokens_a_second"] >= 0.95 and engine["first_token_later_ms"] <= 5
    goal = f">= 6 times the seed recipe's requests/s at {CLIENTS} clients, no worse with one; gateway p50 <= 2 ms, p99 <= 10 ms at {RATE}/s"
    goal += "; >= 95 % of the bare engine's tokens/s, first token <= 5 ms later; >= 3 times LiteLLM's requests a CPU-second"
    peers: dict[str, Any] = {"pipeline in an async handler": theirs}
    if litellm:
        peers["LiteLLM's proxy"] = litellm
        ratios["gateway_requests_a_cpu_second"] = round(own["requests_a_cpu_second"] / litellm["requests_a_cpu_second"], 2)
        met = met and ratios["gateway_requests_a_cpu_second"] >= 3
    print(json.dumps({"name": "serve", "ours": {"gateway": own, "answers": ours}, "peers": peers, "ratios": ratios, "goal": goal, "met": met}))
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
