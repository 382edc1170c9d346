"""The page, run headless by Streamlit's own test harness against an HTTP server that answers as serving does."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from streamlit.testing.v1 import AppTest

from flywheel.settings import REPOSITORY, settings


@pytest.fixture
def service(monkeypatch, home):
    received = []

    class Handler(BaseHTTPRequestHandler):
        def reply(self, status, body):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def do_GET(self):
            self.reply(200, {"model_version": "7"})

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            received.append((self.path, body))
            if self.path == "/v1/feedback":
                self.reply(201, {"id": "f", "stored": True})
            elif "break" in body["messages"][-1]["content"]:
                self.reply(503, {"error": {"message": "The database does not answer."}})
            else:
                self.reply(200, {"id": "answer-1", "choices": [{"message": {"content": "Four."}}]})

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("FLYWHEEL_SERVING_URL", f"http://127.0.0.1:{server.server_address[1]}")
    settings.cache_clear()
    yield received
    server.shutdown()
    server.server_close()


def page():
    return AppTest.from_file(str(REPOSITORY / "ui" / "app.py"), default_timeout=30).run()


def test_ask_then_correct(service):
    at = page()
    assert not at.exception
    assert "Version 7" in at.sidebar.caption[0].value
    at.chat_input[0].set_value("2 + 2?").run()
    assert "Four." in [m.value for m in at.markdown]
    at.text_area[0].set_value("4")
    next(t for t in at.text_input if t.label.startswith("Comment")).set_value("digits, please")
    next(b for b in at.button if b.label == "Send").click().run()
    path, body = service[-1]
    assert path == "/v1/feedback"
    assert (body["answer_id"], body["correction"], body["comment"], body["consent"]) == ("answer-1", "4", "digits, please", False)


def test_an_error_is_shown_in_words_and_the_question_can_be_asked_again(service):
    at = page()
    at.chat_input[0].set_value("break").run()
    assert "The database does not answer." in [e.value for e in at.error]
    at.chat_input[0].set_value("2 + 2?").run()
    assert not at.error
