"""The queries of the chart's ScaledObjects on a live Prometheus under real load give the replicas that docs/scaling.md promises. Minutes.

Serving is real, its engine counts words; Prometheus is real, and so is HAProxy. KEDA and the HPA are not here: what they make of a query's
value is `replicas`, by their documentation.
"""

from __future__ import annotations

import math
import shutil
import subprocess
import threading
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest
import yaml

from tests.charts import rendered
from tests.conftest import free_port
from tests.serving.processes import Server, serve

pytestmark = pytest.mark.slow
LABELS = {"namespace": "team", "service": "flywheel-serving"}
MIN, MAX = 2, 8


def scaled_object(**autoscaling) -> dict:
    """The ScaledObject's spec, as the chart gives it."""
    values = {"store": "s3://bucket", "serving": {"autoscaling": {"kind": "keda", "min": MIN, "max": MAX, **autoscaling}}}
    (found,) = [one for one in rendered(values, "team") if one["kind"] == "ScaledObject"]
    return found["spec"]


def replicas(spec: dict, values: list[float | None]) -> int:
    """What comes of the triggers' values: the most that one of them wants; the fallback for one that has none."""
    wanted = [
        spec["fallback"]["replicas"] if value is None else math.ceil(value / float(trigger["metadata"]["threshold"]))
        for trigger, value in zip(spec["triggers"], values, strict=True)
    ]
    return min(spec["maxReplicaCount"], max([spec["minReplicaCount"], *wanted]))


class Prometheus:
    """A real one that asks every second."""

    def __init__(self, folder: Path, jobs: list[dict]) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        config = {"global": {"scrape_interval": "1s", "scrape_timeout": "1s"}, "scrape_configs": jobs}
        (folder / "prometheus.yaml").write_text(yaml.safe_dump(config))
        command = ["prometheus", f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/data", f"--web.listen-address={self.url[7:]}"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def ask(self, query: str) -> float | None:
        """The value of a query, None when it has none."""
        found = httpx.get(f"{self.url}/api/v1/query", params={"query": query}).raise_for_status().json()["data"]["result"]
        return float(found[0]["value"][1]) if found else None

    def ask_all(self, spec: dict) -> list[float | None]:
        return [self.ask(trigger["metadata"]["query"]) for trigger in spec["triggers"]]

    def wait(self, query: str, true, seconds: float = 90) -> float | None:
        until, value = time.monotonic() + seconds, None
        while time.monotonic() < until:
            try:
                value = self.ask(query)
                if true(value):
                    return value
            except httpx.HTTPError:
                pass
            time.sleep(0.5)
        raise AssertionError(f"{query} is {value}")


@contextmanager
def prometheus(folder: Path, jobs: list[dict]):
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus is not installed: apt-get install prometheus")
    made = Prometheus(folder, jobs)
    try:
        yield made
    finally:
        made.process.terminate()
        made.process.wait()


@contextmanager
def clients(url: str, number: int, words: int):
    """So many people who each ask again as soon as they have an answer; gives the tokens they got, and the errors."""
    over, tokens, errors = threading.Event(), [], []

    def person(which: int) -> None:
        with httpx.Client(base_url=url, timeout=120) as client:
            while not over.is_set():
                reply = client.post("/v1/generate", json={"instruction": f"count {which}", "max_new_tokens": words, "cache": False})
                if reply.status_code == 200:
                    tokens.append(reply.json()["answer_tokens"] + reply.json()["prompt_tokens"])
                else:
                    errors.append(reply.text)

    people = [threading.Thread(target=person, args=(which,)) for which in range(number)]
    for one in people:
        one.start()
    try:
        yield tokens, errors
    finally:
        over.set()
        for one in people:
            one.join()


def test_requests_and_tokens_give_the_replicas_promised(database, behaviour, tmp_path):
    spec = scaled_object(requestsPerReplica=12, tokensPerSecondPerReplica=60, fallbackReplicas=3)
    requests, tokens = (trigger["metadata"]["query"] for trigger in spec["triggers"])
    with ExitStack() as stack:
        servers: list[Server] = [stack.enter_context(serve(WORD_SECONDS="0.1", FLYWHEEL_SERVING_RATE_LIMITS="{}")) for _ in range(2)]
        job = {"job_name": "serving", "static_configs": [{"targets": [server.url[7:] for server in servers], "labels": LABELS}]}
        prom = stack.enter_context(prometheus(tmp_path, [job]))
        prom.wait(requests, lambda value: value == 0)
        idle = prom.wait(tokens, lambda value: value is not None)
        assert idle == 0 and replicas(spec, [0, idle]) == MIN  # nothing to do is a figure, and not a missing one

        with ExitStack() as load:  # 20 people on one replica, 20 on the other: 16 are decoded on each, 4 wait
            people = [load.enter_context(clients(server.url, 20, 40)) for server in servers]
            prom.wait(requests, lambda value: value == 40)
            time.sleep(70)  # a minute of rate, and the time to it
            before, began = sum(sum(got) for got, _ in people), time.monotonic()
            time.sleep(20)
            seen = prom.ask_all(spec)
            real = (sum(sum(got) for got, _ in people) - before) / (time.monotonic() - began)
            assert not [error for _, errors in people for error in errors]
        print(f"\nunder load: {seen[0]:.0f} requests, {seen[1]:.0f} tokens/s by Prometheus, {real:.0f} by the clients")
        assert seen[0] == 40 and replicas(spec, [seen[0], 0]) == 4  # ceil(40 / 12)
        assert seen[1] == pytest.approx(real, rel=0.2)
        assert replicas(spec, [0, seen[1]]) == min(MAX, math.ceil(seen[1] / 60)) and replicas(spec, seen) == max(4, min(MAX, math.ceil(seen[1] / 60)))

        for server in servers:
            server.kill()
        prom.wait(requests, lambda value: value is None)
        assert replicas(spec, [None, None]) == 3  # no figure: not taken for nothing to do


HAPROXY = """
defaults
  mode http
  timeout connect 2s
  timeout client 300s
  timeout server 300s
  timeout queue 300s
  retries 120
  option redispatch 0
frontend door
  bind 127.0.0.1:{port}
  default_backend flywheel-serving
frontend figures
  bind 127.0.0.1:{figures}
  http-request use-service prometheus-exporter if {{ path /metrics }}
backend flywheel-serving
  server serving 127.0.0.1:{serving} maxconn 4
"""


def test_what_waits_at_the_gateway_wakes_serving_from_zero(database, behaviour, tmp_path, monkeypatch):
    if shutil.which("haproxy") is None:
        pytest.skip("haproxy is not installed: apt-get install haproxy")
    spec = scaled_object(requestsPerReplica=4, toZero={"enabled": True, "backend": "flywheel-serving"})
    (query,) = (trigger["metadata"]["query"] for trigger in spec["triggers"])
    port, figures, serving = free_port(), free_port(), free_port()
    (tmp_path / "haproxy.cfg").write_text(HAPROXY.format(port=port, figures=figures, serving=serving))
    monkeypatch.setattr("tests.serving.processes.free_port", lambda: serving)
    gateway = subprocess.Popen(["haproxy", "-db", "-f", str(tmp_path / "haproxy.cfg")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with prometheus(tmp_path, [{"job_name": "gateway", "static_configs": [{"targets": [f"127.0.0.1:{figures}"]}]}]) as prom:
            assert replicas(spec, [prom.wait(query, lambda value: value == 0)]) == 0  # nobody asks: no replica
            answers = []
            people = [
                threading.Thread(
                    target=lambda: answers.append(
                        httpx.post(f"http://127.0.0.1:{port}/v1/generate", json={"instruction": "x", "max_new_tokens": 3}, timeout=300)
                    )
                )
                for _ in range(10)
            ]
            for one in people:
                one.start()
            waiting = prom.wait(query, lambda value: value == 10)
            activation = float(spec["triggers"][0]["metadata"]["activationThreshold"])
            assert not answers and waiting > activation and replicas(spec, [waiting]) == 3  # ceil(10 / 4)
            with serve(FLYWHEEL_SERVING_RATE_LIMITS="{}"):  # what KEDA has started
                for one in people:
                    one.join(120)
                assert [answer.status_code for answer in answers] == [200] * 10
            assert replicas(spec, [prom.wait(query, lambda value: value == 0)]) == 0
    finally:
        gateway.terminate()
        gateway.wait()
