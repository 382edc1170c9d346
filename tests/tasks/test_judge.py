"""A judge at a real local address: one that agrees with people, one that does not, one that talks, one that is silent."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from sklearn.metrics import cohen_kappa_score

from flywheel.config import Judge
from flywheel.errors import ContractError
from tasks import judge

HUMAN = [("fine", 5), ("wrong", 1), ("so so", 3), ("good", 4), ("bad", 2), ("fine too", 5), ("wrong too", 1), ("middling", 3)]


@pytest.fixture
def endpoint():
    """Serves chat completions from a function of the prompt."""
    behaviour = {}

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            prompt = json.loads(self.rfile.read(int(self.headers["content-length"])))["messages"][0]["content"]
            status, text = behaviour["reply"](prompt.split("Answer to grade:\n")[1].split("\n\nGrade it")[0])
            body = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def start(reply):
        behaviour["reply"] = reply
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    server.shutdown()


def configured(url, tmp_path, **change):
    (tmp_path / "labels.jsonl").write_text("\n".join(json.dumps({"prompt": "q", "answer": a, "rating": r}) for a, r in HUMAN))
    return Judge(**{"url": url, "model": "m", "labels": str(tmp_path / "labels.jsonl"), "timeout_seconds": 5, **change})


ASKED = [("q", "ref", "fine"), ("q", "", "wrong")]


def test_a_judge_that_agrees_with_people_counts(endpoint, tmp_path):
    conf = configured(endpoint(lambda answer: (200, f'{{"rating": {dict(HUMAN)[answer]}}}')), tmp_path)
    assert judge.ratings_of(conf, ASKED) == ([1.0, 0.0], judge.Bench(True, "the judge agrees with people (1.00 on 8 answers)", 1.0))


@pytest.mark.parametrize(
    ("reply", "sentence"),
    [
        (lambda _: (200, '{"rating": 3}'), "its agreement with people is 0.00"),
        (lambda a: (200, f'{{"rating": {6 - dict(HUMAN)[a]}}}'), "its agreement with people is -"),
        (lambda _: (200, "Great answer!!! 11/10"), "a usable rating to 0 of 8"),
        (lambda _: (200, '{"rating": 9}'), "a usable rating to 0 of 8"),
        (lambda _: (500, ""), "a usable rating to 0 of 8"),
    ],
)
def test_a_judge_that_does_not_is_set_aside_with_a_sentence(endpoint, tmp_path, reply, sentence):
    ratings, bench = judge.ratings_of(configured(endpoint(reply), tmp_path), ASKED)
    assert ratings == [None, None] and not bench.usable and sentence in bench.text


def test_a_judge_that_is_not_there_or_was_never_measured(tmp_path, endpoint):
    assert "usable rating to 0" in judge.ratings_of(configured("http://127.0.0.1:1", tmp_path), ASKED)[1].text
    url = endpoint(lambda _: (200, '{"rating": 5}'))
    assert "no human labels" in judge.ratings_of(configured(url, tmp_path, labels=""), ASKED)[1].text
    (tmp_path / "bad.jsonl").write_text('{"prompt": "q", "answer": "a", "rating": 7}')
    with pytest.raises(ContractError, match="line 1"):
        judge.ratings_of(configured(url, tmp_path, labels=str(tmp_path / "bad.jsonl")), ASKED)


def test_agreement_is_sklearns():
    ours, theirs = [1, 2, 3, 4, 5, 5, 2, 1], [1, 3, 3, 5, 5, 4, 1, 1]
    assert judge.agreement(ours, theirs) == pytest.approx(cohen_kappa_score(ours, theirs, weights="quadratic", labels=[1, 2, 3, 4, 5]))
