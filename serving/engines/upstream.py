"""Decoding by an OpenAI-compatible server, such as vLLM on a GPU (`vllm serve BASE --enable-lora`, VLLM_ALLOW_RUNTIME_LORA_UPDATING=True).

Adapters are loaded and unloaded through vLLM's `/load_lora_adapter`: the server must see the same cache folder as this process.
The prompt is rendered here and sent as token ids, so that it is what training rendered; a server that takes no ids gets messages.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from typing import Any

import httpx

from flywheel import config, prompt
from flywheel.errors import ContractError, TransientError
from flywheel.records import Message
from flywheel.settings import settings
from serving.engines.base import Decoding, Piece, Text, Token, Wanted
from serving.settings import serving


def _headers() -> dict[str, str]:
    key = serving().upstream_key_file
    return {"authorization": f"Bearer {key.read_text().strip()}"} if key else {}


def _url(path: str) -> str:
    return f"{serving().upstream_url.rstrip('/')}/{path}"


def _unreachable(error: Exception) -> TransientError:
    return TransientError(f"the upstream does not answer ({type(error).__name__})", where=serving().upstream_url, mend="Ask again; look at the upstream.")


def _refused(status: int, text: str) -> ContractError | TransientError:
    """What the upstream's refusal is to our client: its own request is wrong (4xx), or the upstream is busy or broken."""
    kind = TransientError if status >= 500 or status in (401, 403, 408, 429) else ContractError
    return kind(f"the upstream answers with {status}: {text[:300]}", where=serving().upstream_url, mend="Mend the request, or look at the upstream.")


class Upstream:
    """Names versions to one server."""

    def load(self, wanted: Wanted) -> UpstreamModel:
        """See Engine."""
        name = serving().upstream_model or config.load(settings().config).model.base
        try:
            with httpx.Client(headers=_headers(), timeout=120) as client:
                if wanted.adapter:
                    name = f"{settings().model_name}-{wanted.version}"
                    body = {"lora_name": name, "lora_path": str(wanted.adapter)}
                    reply = client.post(_url("load_lora_adapter"), json=body)
                    if reply.is_error and "already" not in reply.text:
                        raise _refused(reply.status_code, reply.text)
                reply = client.get(_url("models"))
                if reply.is_error:
                    raise _refused(reply.status_code, reply.text)
                served = {model["id"]: model for model in reply.json()["data"]}
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise _unreachable(error) from error
        if name not in served:
            raise ContractError(
                f"it does not serve {name}, only {', '.join(served)}", where=serving().upstream_url, mend="Set FLYWHEEL_SERVING_UPSTREAM_MODEL."
            )
        return UpstreamModel(wanted, name, next((model["max_model_len"] for model in served.values() if model.get("max_model_len")), None))


class UpstreamModel:
    """One version on the server."""

    can = frozenset({"logprobs", "json", "seed"})

    def __init__(self, wanted: Wanted, name: str, context: int | None) -> None:
        self.version, self.style, self.name, self.adapter = wanted.version, wanted.style, name, wanted.adapter
        self.tokenizer = prompt.load_tokenizer(wanted.base) if serving().upstream_prompt == "tokens" else None
        self.context = context  # as vLLM tells; None: only it knows
        self._clients: dict[asyncio.AbstractEventLoop, httpx.AsyncClient] = {}

    def _client(self) -> httpx.AsyncClient:
        loop = asyncio.get_running_loop()
        if loop not in self._clients:
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=512)
            self._clients = {loop: httpx.AsyncClient(headers=_headers(), timeout=httpx.Timeout(serving().request_seconds, connect=5), limits=limits)}
        return self._clients[loop]

    def _body(self, turns: Sequence[Message] | str, decoding: Decoding) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {
            "model": self.name, "max_tokens": decoding.max_tokens, "temperature": decoding.temperature, "top_p": decoding.top_p, "seed": decoding.seed,
            "stop": list(decoding.stop) or None, "stream": True, "stream_options": {"include_usage": True},
            "response_format": {"type": "json_object"} if decoding.json else None,
        }  # fmt: skip
        body = {key: value for key, value in body.items() if value is not None}
        if isinstance(turns, str) or self.tokenizer is not None:
            body["prompt"] = turns if isinstance(turns, str) else prompt.encode(self.tokenizer, turns, self.style)
            return "completions", body | ({"logprobs": 1} if decoding.logprobs else {})
        body["messages"] = [{"role": turn.role, "content": turn.content} for turn in turns]
        return "chat/completions", body | ({"logprobs": True} if decoding.logprobs else {})

    async def stream(self, turns: Sequence[Message] | str, decoding: Decoding) -> AsyncGenerator[Piece, None]:
        """See Model."""
        path, body = self._body(turns, decoding)
        text, finish, written = Text(decoding.stop), "", 0
        usage: dict[str, Any] = {}
        try:
            async with self._client().stream("POST", _url(path), json=body) as reply:
                if reply.is_error:
                    raise _refused(reply.status_code, (await reply.aread()).decode(errors="replace"))
                async for line in reply.aiter_lines():
                    if not line.startswith("data:") or line == "data: [DONE]":
                        continue
                    event = json.loads(line[5:])
                    if "error" in event:
                        raise _refused(502, json.dumps(event["error"]))
                    usage = event.get("usage") or usage
                    for choice in event["choices"][:1]:
                        written += 1
                        said = choice.get("text") or (choice.get("delta") or {}).get("content") or ""
                        tokens = _tokens(choice.get("logprobs")) if decoding.logprobs else ()
                        finish = choice.get("finish_reason") or finish
                        shown = text.add(said)
                        if shown or tokens:
                            yield Piece(shown, tokens)
                    if text.stopped:  # a server that knows no `stop` is told by our leaving
                        finish = "stop"
                        break
        except httpx.HTTPError as error:
            raise _unreachable(error) from error
        except ValueError as error:
            raise TransientError("what the upstream says cannot be read", where=serving().upstream_url, mend="Look at the upstream.") from error
        if not finish:
            raise TransientError("the upstream ended in the middle of an answer", where=serving().upstream_url, mend="Ask again; look at the upstream.")
        read, count = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", written))
        yield Piece(text.add("", last=True), (), "length" if finish == "length" else "stop", read, count)

    def room(self, turns: Sequence[Message], tokens: int) -> int:
        """See Model."""
        if self.context is None or self.tokenizer is None:
            return 0
        return self.context - tokens - len(prompt.encode(self.tokenizer, turns, self.style))

    def close(self) -> None:
        """See Model."""
        if self.adapter:
            with suppress(httpx.HTTPError):  # it is away, and its adapters with it
                httpx.post(_url("unload_lora_adapter"), json={"lora_name": self.name}, headers=_headers(), timeout=30)


def _tokens(logprobs: Any) -> tuple[Token, ...]:
    """Log-probabilities of a chunk, in either of OpenAI's two forms."""
    if not logprobs:
        return ()
    if logprobs.get("content"):
        return tuple(Token(t["token"], t["logprob"]) for t in logprobs["content"])
    return tuple(Token(t, p) for t, p in zip(logprobs.get("tokens") or (), logprobs.get("token_logprobs") or (), strict=False))
