"""The local embedder, and a server that speaks OpenAI's way."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy
import pytest

from flywheel import embedding
from flywheel.errors import ContractError, TransientError


@pytest.fixture
def server():
    """Answers /embeddings with the text's length and its number of words, in the wrong order, unless told to be bad."""

    class Handler(BaseHTTPRequestHandler):
        bad = False
        asked: list[dict] = []

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            self.asked.append({**body, "path": self.path, "key": self.headers.get("authorization")})
            rows = [{"index": i, "embedding": [len(text), len(text.split()), 0.5]} for i, text in enumerate(body["input"])]
            reply = b"{}" if Handler.bad else json.dumps({"data": rows[::-1]}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    running = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{running.server_port}/v1", Handler
    running.shutdown()


def test_what_means_the_same_is_near():
    one, same, other = embedding.embed(["The cat sleeps on the sofa.", "A cat is asleep on the couch.", "Interest rates rose."], embedding.BUILT_IN)
    assert one.shape == (384,) and abs(float(one @ one) - 1) < 1e-5
    assert one @ same > 0.6 > 0.3 > one @ other


def test_a_server_is_asked_and_its_order_put_right(server, monkeypatch):
    url, handler = server
    monkeypatch.setenv(embedding.KEY_VARIABLE, "k")
    vectors = embedding.embed(["a b", "long enough words"], "their-model", url)
    assert vectors.shape == (2, 3) and numpy.allclose(numpy.linalg.norm(vectors, axis=1), 1)
    assert vectors[0][0] / vectors[0][1] == pytest.approx(3 / 2) and vectors[1][0] / vectors[1][1] == pytest.approx(17 / 3)
    assert handler.asked[-1] == {"model": "their-model", "input": ["a b", "long enough words"], "path": "/v1/embeddings", "key": "Bearer k"}


def test_a_server_that_is_away_or_answers_something_else_is_a_sentence(server):
    url, handler = server
    handler.bad = True
    with pytest.raises(TransientError, match="does not answer as it should"):
        embedding.embed(["a"], "m", url)
    with pytest.raises(TransientError, match="does not answer"):
        embedding.embed(["a"], "m", "http://127.0.0.1:9/v1")


def test_no_such_embedder(home):
    with pytest.raises(ContractError):
        embedding.embed(["a"], "nobody/has-this-embedder")
