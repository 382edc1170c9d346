"""The upstream engine's protocol, against a stand-in server of a few lines: no model, and no vLLM, runs here."""

import asyncio
import http.server
import json
import threading

import pytest

from flywheel.errors import ContractError, TransientError
from flywheel.records import Message
from serving.engines.base import Decoding, Wanted
from serving.engines.upstream import Upstream

ASK = (Message(role="user", content="hi"),)


@pytest.fixture
def upstream(behaviour, tmp_path):
    """An OpenAI-compatible server that says what it was asked; gives its log and its switches."""
    log, state = [], {"status": 200, "models": ["the-base"], "cut": False}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(json.dumps({"data": [{"id": name, "max_model_len": state.get("context")} for name in state["models"]]}).encode())

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            log.append((self.path, body, self.headers.get("authorization")))
            if self.path.endswith("load_lora_adapter"):
                state["models"].append(body["lora_name"])
                return self.reply(b"ok")
            if state["status"] != 200:
                return self.reply(json.dumps({"error": {"message": "no"}}).encode(), state["status"])
            texts = ["Hel", "lo ", "STOP", " there"]
            key = (lambda t: {"delta": {"content": t}}) if "chat" in self.path else (lambda t: {"text": t})
            events = [{"choices": [{"index": 0, "finish_reason": None, **key(t)}]} for t in texts]
            if not state["cut"]:
                events += [
                    {"choices": [{"index": 0, "finish_reason": "length", **key("")}]},
                    {"choices": [], "usage": {"prompt_tokens": 5, "completion_tokens": 4}},
                ]
            return self.reply("".join(f"data: {json.dumps(e)}\n\n" for e in events).encode() + b"data: [DONE]\n\n")

        def reply(self, content, status=200):
            self.send_response(status)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    (tmp_path / "key").write_text("abc\n")
    behaviour(engine="upstream", upstream_url=f"http://127.0.0.1:{server.server_port}/v1", upstream_model="the-base", upstream_key_file=tmp_path / "key")
    yield log, state
    server.shutdown()


async def said(model, **decoding):
    pieces = [piece async for piece in model.stream(ASK, Decoding(**decoding))]
    return "".join(p.text for p in pieces), pieces[-1]


def test_tokens_go_out_pieces_come_in_and_an_adapter_is_loaded_by_name(upstream, tiny_home, tiny_model, tmp_path):
    log, _ = upstream
    model = Upstream().load(Wanted("3", tiny_model, tmp_path, "auto"))
    assert log[0][1] == {"lora_name": "flywheel-3", "lora_path": str(tmp_path)} and log[0][2] == "Bearer abc"
    text, last = asyncio.run(said(model, max_tokens=4, seed=1))
    assert (text, last.finish, last.prompt_tokens, last.answer_tokens) == ("Hello STOP there", "length", 5, 4)
    path, body, _ = log[-1]
    assert path == "/v1/completions" and body["model"] == "flywheel-3" and body["seed"] == 1
    assert body["prompt"] and all(isinstance(i, int) for i in body["prompt"])
    assert asyncio.run(said(model, stop=("STOP",)))[0] == "Hello"
    model.close()
    assert log[-1][0] == "/v1/unload_lora_adapter"


def test_the_room_that_is_left_is_as_the_server_says(upstream, tiny_home, tiny_model):
    _, state = upstream
    assert Upstream().load(Wanted("base", tiny_model, None, "auto")).room(ASK, 10_000) == 0  # it does not say: nobody can tell
    state["context"] = 64
    model = Upstream().load(Wanted("3", tiny_model, tiny_model, "auto"))
    assert model.room(ASK, 10) == model.room(ASK, 11) + 1 > 0 > model.room(ASK, 64)


def test_a_server_without_ids_gets_messages(upstream, behaviour, tiny_home, tiny_model):
    log, _ = upstream
    behaviour(upstream_prompt="messages")
    assert asyncio.run(said(Upstream().load(Wanted("base", tiny_model, None, "auto"))))[0] == "Hello STOP there"
    assert log[-1][0] == "/v1/chat/completions" and log[-1][1]["messages"] == [{"role": "user", "content": "hi"}]


def test_what_goes_wrong_there_has_a_sentence_here(upstream, behaviour, tiny_home, tiny_model):
    _, state = upstream
    model = Upstream().load(Wanted("base", tiny_model, None, "auto"))
    for status, kind in ((400, ContractError), (401, TransientError), (429, TransientError), (500, TransientError)):
        state["status"] = status
        with pytest.raises(kind, match=str(status)):
            asyncio.run(said(model))
    state.update(status=200, cut=True)
    with pytest.raises(TransientError, match="middle"):
        asyncio.run(said(model))
    behaviour(upstream_model="another")
    with pytest.raises(ContractError, match="the-base"):
        Upstream().load(Wanted("base", tiny_model, None, "auto"))
    behaviour(upstream_url="http://127.0.0.1:9/v1")
    with pytest.raises(TransientError, match="does not answer"):
        Upstream().load(Wanted("base", tiny_model, None, "auto"))
