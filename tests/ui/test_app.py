"""Each page's logic, run headless by Streamlit's own test harness against an HTTP server that answers as serving does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from streamlit.testing.v1 import AppTest

from flywheel.settings import REPOSITORY, settings
from ui import memory

ITEM = {
    "id": "i1",
    "feedback_id": "f1",
    "answer_id": "a1",
    "prompt": "2 + 2?",
    "input": "",
    "response": "5",
    "correction": "4",
    "model_version": "7",
    "reason": "Short.",
}
RECORD = {"id": "r1", "timestamp": "2026-01-02T03:04:05Z", "model_version": "7", "consent": False, "prompt": "2 + 2?", "verdict": "down", "comment": None, "tags": ["wrong"], "correction": "4", "withheld": ""}  # fmt: skip
VERSION = {"version": 7, "created": "2026-01-01", "verdict": "promote", "reason": "better", "champion": True,
           "figures": {"log_loss": {"value": 3.1, "champion": 3.2, "gain": 0.1, "low": 0.05, "high": 0.15}}}  # fmt: skip
TURN = {"run": "r", "ended": "2026-01-02T03:04:05Z", "outcome": "refuse", "story": "It is refused.", "learned": {"new examples learned": 3}, "money": 0.1,
        "rules": [{"name": "safety", "outcome": "refuse", "text": "worse"}], "currency": "USD", "seconds": {"train": 60.0}, "links": {}}  # fmt: skip
DATA = {
    "id": "abcdef0123456789",
    "created": "2026-01-01T00:00",
    "records": {"train": 9, "heldout": 1},
    "slices": {},
    "sources": {"docs": 10},
    "dropped": {"length": 2},
}
ANSWERS = {
    "/v1/policy": {"version": "1", "text": "Be good.", "accepted": "2026-01-01"},
    "/v1/models": {"data": [{"id": "flywheel", "version": "7"}, {"id": "flywheel:7", "version": "7"}, {"id": "flywheel:8", "version": "8"}]},
    "/v1/feedback": {"data": [RECORD, {**RECORD, "id": "r0", "withheld": "superseded by r1"}]},
    "/v1/review": {"data": [ITEM], "decided": [{"at": "2026-01-02T03:04:05Z", "reviewer": "Bo", "decision": "skip", "prompt": "2 + 2?"}]},
    "/v1/stats": {"approval": 0.5, "feedback_rate": 0.25, "waiting": 3, "learned": 2, "seconds_to_learn": 7200},
    "/v1/quality": {"metric": "log_loss", "versions": [VERSION], "turn": TURN, "data": [DATA], "links": {"MLflow": "http://x"}, "problems": ["The disk is full."],
                    "trends": [{"day": "2026-01-01", "version": "7", "answers": 4, "up": 1, "down": 1, "corrected": 1, "tags": {"wrong": 1}}]},
}  # fmt: skip


@pytest.fixture
def service(monkeypatch, home):
    """What it received, as (path, body)."""
    received = []

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status, data):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(data if isinstance(data, bytes) else json.dumps(data).encode())

        def do_GET(self):
            self.reply(200, ANSWERS[self.path.partition("?")[0]])

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            received.append((self.path, body))
            if self.path != "/v1/chat/completions":
                self.reply(201, {"id": f"f{len(received)}", "stored": True})
            elif "break" in body["messages"][-1]["content"]:
                self.reply(503, {"error": {"message": "The database does not answer."}})
            else:
                self.reply(200, self.events(body))

        def events(self, body):
            head = {"id": f"answer-{len(received)}", "model_version": body["model"].partition(":")[2] or "7"}
            tokens = [{"token": "Four", "logprob": -0.5}] if body.get("logprobs") else None
            choices = [
                {"delta": {"content": "Four"}, "logprobs": tokens and {"content": tokens}},
                {"delta": {"content": "."}},
                {"delta": {}, "finish_reason": "stop"},
            ]
            sources = {"sources": [{"title": "Sums", "document": "https://example.org/sums", "text": "2 + 2 = 4"}]} if "retrieval" in body else {}
            events = [{**head, "choices": [choice], **sources} for choice in choices]
            ended = [] if "cut" in body["messages"][-1]["content"] else ["[DONE]"]
            return "".join(f"data: {e if isinstance(e, str) else json.dumps(e)}\n\n" for e in [*events, *ended]).encode()

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FLYWHEEL_SERVING_URL", f"http://127.0.0.1:{server.server_address[1]}")
    settings.cache_clear()
    memory.shelf.clear()
    yield received
    server.shutdown()
    server.server_close()


def app():
    return AppTest.from_file(str(REPOSITORY / "ui" / "app.py"), default_timeout=30).run()


def view(name):
    """One page by itself, for a person who may do everything."""

    def script(name):
        import importlib

        from ui.doors import ROLES, Person

        importlib.import_module(f"ui.views.{name}").page(Person("Ada", frozenset(ROLES)))

    return AppTest.from_function(script, args=(name,), default_timeout=30).run()


def button(at, label):
    return next(b for b in at.button if b.label == label)


def texts(at):
    return " ".join(m.value for m in at.markdown)


def sent(service, path="/v1/feedback"):
    return [body for where, body in service if where == path]


def test_ask_rate_then_correct_supersedes_the_thumb(service):
    at = app()
    assert not at.exception
    at.chat_input[0].set_value("2 + 2?").run()
    assert "Four." in texts(at) and "version 7" in [c.value for c in at.caption]
    at.text_area[0].set_value("4").run()
    at.text_input(key=next(t.key for t in at.text_input if t.label == "Comment")).set_value("digits, please")
    button(at, "Send").click().run()
    (body,) = sent(service)
    assert (body["answer_id"], body["thumb"], body["correction"], body["comment"]) == ("answer-1", "down", "4", "digits, please")
    assert (body["consent"], body["source"], body["supersedes"]) == (False, "ui", None)
    at.text_area[0].set_value("Four!").run()
    button(at, "Send").click().run()
    assert sent(service)[1]["supersedes"] == body["idempotency_key"] and sent(service)[1]["correction"] == "Four!"
    button(at, "Withdraw").click().run()
    assert service[-1] == ("/v1/feedback/f3/withdraw", {"user": "anonymous"})
    assert len(sent(service, "/v1/chat/completions")) == 1  # no rerun asked again


def test_an_error_is_shown_in_words_and_what_came_is_kept(service):
    at = app()
    at.chat_input[0].set_value("break").run()
    assert "The database does not answer." in [e.value for e in at.error]
    button(at, "Try again").click().run()
    assert len(sent(service, "/v1/chat/completions")) == 2
    at.chat_input[0].set_value("cut").run()
    assert "Four." in texts(at) and any("broke off" in e.value for e in at.error)
    last = sent(service, "/v1/chat/completions")[-1]
    assert [m["content"] for m in last["messages"]] == ["cut"]  # what failed is no part of the conversation


def test_regenerate_draws_differently_and_says_so(service):
    at = app()
    at.chat_input[0].set_value("2 + 2?").run()
    button(at, "Regenerate").click().run()
    first, second = sent(service, "/v1/chat/completions")
    assert "temperature" not in first and second["temperature"] == 0.8 and first["messages"] == second["messages"]
    assert [body["signal"] for body in sent(service)] == ["regenerated"]


def test_answers_from_documents_show_their_sources(service):
    at = app()
    next(t for t in at.toggle if t.label.startswith("Answer from")).set_value(True).run()
    at.chat_input[0].set_value("2 + 2?").run()
    assert sent(service, "/v1/chat/completions")[0]["retrieval"] == {}
    assert "[Sums](<https://example.org/sums>)" in texts(at)


def test_side_by_side_asks_two_versions_and_names_them_after_the_choice(service):
    at = view("compare")
    at.chat_input[0].set_value("2 + 2?").run()
    assert {body["model"] for body in sent(service, "/v1/chat/completions")} == {"flywheel:7", "flywheel:8"}
    assert "version 7" not in texts(at)
    button(at, "A tie").click().run()
    (body,) = sent(service)
    assert body["preference"]["better"] == "tie" and body["preference"]["other_id"] != body["answer_id"]
    assert "version 7" in at.success[0].value and "version 8" in at.success[0].value


def test_the_playground_sends_every_setting_and_shows_probabilities(service):
    at = view("playground")
    at.text_area(key="question").set_value("2 + 2?")
    at.text_area(key="system").set_value("Be brief.")
    at.slider(key="temperature").set_value(0.5)
    at.number_input(key="seed").set_value(3)
    at.toggle(key="adapter").set_value(False)
    button(at, "Run").click().run()
    (body,) = sent(service, "/v1/chat/completions")
    assert (body["model"], body["temperature"], body["seed"], body["top_p"], body["logprobs"]) == ("flywheel:base", 0.5, 3, 1.0, True)
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert any("perplexity 1.65" in c.value for c in at.caption)


def test_review_decides_by_button_and_shows_who_did_what(service):
    at = view("review")
    assert "Short." in texts(at) and "**Bo** skipped" in texts(at)
    button(at, "Edit").click().run()
    at.text_area[0].set_value("4.0").run()
    button(at, "Save the edit").click().run()
    assert service[-1] == ("/v1/review/i1", {"reviewer": "Ada", "decision": "edit", "comment": None, "correction": "4.0"})
    button(at, "Reject").click().run()
    assert service[-1][1]["decision"] == "reject"


def test_quality_shows_every_part_and_what_is_away(service):
    at = view("quality")
    assert not at.exception
    assert [m.value for m in at.metric][:5] == ["50%", "25%", "3", "2", "2.0 h"]
    assert at.warning[0].value == "The disk is full." and "It is refused." in texts(at)
    assert [h.value for h in at.header] == ["Versions", "What people say", "The last turn", "Data"]


def test_my_feedback_leaves_out_what_was_said_anew_and_withdraws(service):
    at = view("mine")
    assert [b.label for b in at.button] == ["Withdraw"]
    button(at, "Withdraw").click().run()
    assert service[-1] == ("/v1/feedback/r1/withdraw", {"user": "Ada"})


def test_the_policy_comes_first(service, monkeypatch):
    monkeypatch.setitem(ANSWERS, "/v1/policy", {"version": "2", "text": "Be very good.", "accepted": None})
    at = app()
    assert "Be very good." in texts(at) and not at.chat_input and button(at, "Go on").disabled
    at.checkbox[0].check().run()
    button(at, "Go on").click().run()
    assert sent(service, "/v1/policy") == [{"user": "anonymous", "version": "2"}] and at.chat_input
