"""Which feedback files are new, and what wakes the sensor."""

import asyncio
import json
import socket
import subprocess
import time

import boto3
import pytest

from dags.launch import sensor
from flywheel.settings import settings


def test_fresh_segments(home):
    store = home / "store"

    def put(path, text=""):
        (store / path).parent.mkdir(parents=True, exist_ok=True)
        (store / path).write_text(text)

    assert sensor.fresh_segments(str(store)) == []
    put("feedback/segments/1.jsonl")
    put("feedback/segments/2.jsonl")
    put("feedback/claimed/1.jsonl")
    assert sensor.fresh_segments(str(store)) == ["2.jsonl"]
    put("feedback/waiting.json", json.dumps({"segments": ["1.jsonl", "2.jsonl"], "until": "2999-01-01T00:00:00+00:00"}))
    assert sensor.fresh_segments(str(store)) == []
    put("feedback/segments/3.jsonl")
    assert sensor.fresh_segments(str(store)) == ["2.jsonl", "3.jsonl"]
    put("feedback/waiting.json", json.dumps({"segments": ["2.jsonl", "3.jsonl"], "until": "2020-01-01T00:00:00+00:00"}))
    assert sensor.fresh_segments(str(store)) == ["2.jsonl", "3.jsonl"]


@pytest.fixture
def queue(monkeypatch):
    """An SQS queue on a real API (moto's server, of the stages' environment), and its client."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    for name, value in {"AWS_ENDPOINT_URL": url, "AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}.items():
        monkeypatch.setenv(name, value)
    process = subprocess.Popen(
        [settings().stage_python, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    until = time.monotonic() + 120
    while time.monotonic() < until:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            time.sleep(0.1)
    sqs = boto3.client("sqs")
    yield sqs, sqs.create_queue(QueueName="feedback")["QueueUrl"]
    process.terminate()
    process.wait()


async def woken(trigger):
    return await anext(trigger.run())


def test_a_message_wakes_the_sensor_and_is_taken_and_the_store_decides(home, queue, monkeypatch):
    sqs, url = queue
    looks, look = [], sensor.fresh_segments
    monkeypatch.setattr(sensor, "fresh_segments", lambda store: looks.append(look(store)) or looks[-1])
    trigger = sensor.SegmentTrigger(str(home / "store"), seconds=1e6, queue=url)  # so long that only a message can wake it
    kind, options = trigger.serialize()
    assert kind.endswith("SegmentTrigger") and options["queue"] == url

    async def both():
        waiting = asyncio.create_task(woken(trigger))
        await asyncio.sleep(0.2)
        sqs.send_message(QueueUrl=url, MessageBody="{}")  # of something else in the bucket: it looks, finds nothing, and waits on
        while len(looks) < 2:
            await asyncio.sleep(0.1)
        assert looks == [[], []] and not waiting.done()
        (home / "store" / "feedback" / "segments").mkdir(parents=True)
        (home / "store" / "feedback" / "segments" / "1.jsonl").write_text("")
        sqs.send_message(QueueUrl=url, MessageBody="{}")
        return await waiting

    assert asyncio.run(asyncio.wait_for(both(), 120)).payload == ["1.jsonl"]
    counts = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert counts["ApproximateNumberOfMessages"] == counts["ApproximateNumberOfMessagesNotVisible"] == "0"  # none comes again


def test_a_queue_that_does_not_answer_strands_nothing(home, queue, monkeypatch):
    _, url = queue
    looks = iter([[], [], ["2.jsonl"]])
    monkeypatch.setattr(sensor, "fresh_segments", lambda store: next(looks))
    trigger = sensor.SegmentTrigger("s", seconds=0.01, queue=url.replace("feedback", "no-such-queue"))
    assert asyncio.run(asyncio.wait_for(woken(trigger), 120)).payload == ["2.jsonl"]
