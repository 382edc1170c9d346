"""SIGTERM: what runs is finished, new work is still taken for a while on connections that close, then the process leaves."""

import signal
import threading
import uuid

import httpx

from tests.serving.processes import serve


def test_it_finishes_and_says_that_it_leaves_before_it_does(database, behaviour):
    with serve(FLYWHEEL_SERVING_DRAIN_SECONDS="5", WORD_SECONDS="0.1") as server:
        kept = httpx.Client(base_url=server.url, timeout=60)
        assert "connection" not in kept.get("/readyz").headers
        told = {}

        def ask():
            with httpx.stream("POST", f"{server.url}/v1/chat/completions", json=chat(70), timeout=60) as reply:
                started.set()
                told["stream"] = reply.read().decode()

        def chat(tokens):
            return {"messages": [{"role": "user", "content": "count"}], "max_tokens": tokens, "stream": True}

        started = threading.Event()
        person = threading.Thread(target=ask)  # its answer takes seven seconds, the drain five
        person.start()
        assert started.wait(30)
        server.process.send_signal(signal.SIGTERM)
        while kept.get("/readyz").status_code == 200:
            pass
        late = kept.post("/v1/generate", json={"instruction": "late", "max_new_tokens": 2})
        assert (late.status_code, late.headers["connection"]) == (200, "close")
        thanks = kept.post("/v1/feedback", json={"answer_id": late.json()["answer_id"], "idempotency_key": uuid.uuid4().hex, "thumb": "up"})
        assert (thanks.status_code, thanks.headers["connection"]) == (201, "close")
        refused = kept.get("/v1/nothing")  # an error of the application, and one of the door
        assert (refused.status_code, refused.headers["connection"]) == (404, "close")
        large = kept.post("/v1/generate", content=b"x" * 2_000_001)
        assert (large.status_code, large.headers["connection"]) == (413, "close")
        person.join(60)
        assert "69 " in told["stream"] and told["stream"].endswith("data: [DONE]\n\n")
        assert server.process.wait(60) in (0, -signal.SIGTERM)  # uvicorn sends itself the signal again when all is done
