"""Answer prompts in batches: requests that wait together are decoded together, on whichever model is current.

The model can be replaced while requests are in flight: a batch ends on the model it began with.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import Counter, Gauge, Histogram

from flywheel import prompt
from flywheel.errors import ContractError, TransientError
from flywheel.model import Decoding, Loaded, answer_logits, generate
from flywheel.records import Message

MAX_BATCH = 16
MAX_QUEUE = 256
MAX_PROMPT_TOKENS = 2048
GATHER_SECONDS = 0.01

WAITING = Gauge("flywheel_queued_requests", "Requests waiting for a batch")
QUEUE_LIMIT = Gauge("flywheel_queue_limit_requests", "How many may wait; more are refused")
QUEUE_LIMIT.set(MAX_QUEUE)
QUEUED = Histogram("flywheel_queue_seconds", "Time a request waits for its batch", buckets=(0.01, 0.05, 0.1, 0.5, 1, 2.5, 5, 10, 30))
RUNNING = Gauge("flywheel_running_requests", "Requests being decoded")
BATCH = Histogram("flywheel_batch_size", "Requests decoded together", buckets=(1, 2, 4, 8, 16))
TOKENS = Counter("flywheel_tokens_total", "Tokens, by direction", ["direction"])


@dataclass(frozen=True)
class Served:
    """A loaded model, its prompt style and the version it is known by."""

    loaded: Loaded
    style: prompt.Style
    version: str


@dataclass(frozen=True)
class Answer:
    """An answer, who gave it and what it took."""

    text: str
    version: str
    prompt_tokens: int
    answer_tokens: int
    finished: bool
    log_probs: tuple[tuple[str, float], ...] = ()


@dataclass
class Request:
    """One prompt waiting for its answer."""

    turns: list[Message]
    decoding: Decoding
    loop: asyncio.AbstractEventLoop
    future: asyncio.Future[Answer]
    heard: Callable[[str], None] | None = None  # called in the loop with the text so far
    log_probs: bool = False
    asked: float = field(default_factory=time.monotonic)


class Engine:
    """One decoding thread, fed by a queue."""

    def __init__(self) -> None:
        self.current: Served | None = None
        self._queue: queue.Queue[Request] = queue.Queue(MAX_QUEUE)
        self._held: list[Request] = []
        threading.Thread(target=self._run, name="decoding", daemon=True).start()

    async def answer(self, turns: list[Message], decoding: Decoding, heard: Callable[[str], None] | None = None, log_probs: bool = False) -> Answer:
        """Raises TransientError when no model is ready or too many wait, ContractError when the prompt is too long."""
        if self.current is None:
            raise TransientError("no model is loaded yet", where="serving", mend="Ask again in a few seconds; /readyz tells when.")
        loop = asyncio.get_running_loop()
        request = Request(turns, decoding, loop, loop.create_future(), heard, log_probs)
        try:
            self._queue.put_nowait(request)
        except queue.Full:
            raise TransientError(f"{MAX_QUEUE} requests are waiting", where="serving", mend="Ask again in a moment.") from None
        WAITING.set(self._queue.qsize())
        return await request.future

    def _gather(self) -> list[Request]:
        """Requests with the same way of decoding, at most a batch of them; others are held for the next."""
        waiting = self._held or [self._queue.get()]
        until = time.monotonic() + GATHER_SECONDS
        while len(waiting) < MAX_BATCH:
            try:
                waiting.append(self._queue.get(timeout=max(0.0, until - time.monotonic())))
            except queue.Empty:
                break
        waiting = [r for r in waiting if not r.future.cancelled()]  # the client has left
        if not waiting:
            self._held = []
            return []

        def alike(request: Request) -> bool:
            a, b = request.decoding, waiting[0].decoding
            return (a.temperature, a.top_p) == (b.temperature, b.top_p)

        chosen = [r for r in waiting if alike(r)]
        self._held = [r for r in waiting if not alike(r)]
        WAITING.set(self._queue.qsize() + len(self._held))
        return chosen

    def _run(self) -> None:
        while True:
            batch = self._gather()
            served = self.current
            if not batch or served is None:
                continue
            RUNNING.set(len(batch))
            for request in batch:
                QUEUED.observe(time.monotonic() - request.asked)
            try:
                for request, outcome in zip(batch, _decode(served, batch), strict=True):
                    _deliver(request, outcome)
            except Exception as error:  # the thread must live: whatever a batch does wrong is those requests' answer
                for request in batch:
                    _deliver(
                        request,
                        TransientError(f"decoding failed ({type(error).__name__}: {error})", where="serving", mend="Ask again; see `make logs S=serving`."),
                    )
            finally:
                RUNNING.set(0)


def _decode(served: Served, batch: list[Request]) -> list[Answer | ContractError]:
    prompts = [prompt.encode(served.loaded.tokenizer, r.turns, served.style) for r in batch]
    fitting = [i for i, ids in enumerate(prompts) if len(ids) <= MAX_PROMPT_TOKENS]
    outcomes: list[Answer | ContractError] = [
        ContractError(f"the prompt has {len(ids)} tokens, the most is {MAX_PROMPT_TOKENS}", where="prompt", mend="Send a shorter one.") for ids in prompts
    ]
    if not fitting:
        return outcomes
    BATCH.observe(len(fitting))
    first = batch[fitting[0]].decoding
    longest = max(batch[i].decoding.max_new_tokens for i in fitting)

    def hear(row: int, ids: list[int]) -> bool:
        """Tell who listens; a row ends when its client has gone."""
        request = batch[fitting[row]]
        if request.heard and len(ids) <= request.decoding.max_new_tokens:
            text = served.loaded.tokenizer.decode(ids, skip_special_tokens=True).strip()
            request.loop.call_soon_threadsafe(request.heard, text)
        return request.future.cancelled()

    listened = any(batch[i].heard for i in fitting)
    answers = generate(served.loaded, [prompts[i] for i in fitting], Decoding(longest, first.temperature, first.top_p), hear if listened else None)
    for i, drawn in zip(fitting, answers, strict=True):
        limit = batch[i].decoding.max_new_tokens
        kept = drawn.ids[:limit]
        text = served.loaded.tokenizer.decode(kept, skip_special_tokens=True).strip()
        outcomes[i] = Answer(
            text,
            served.version,
            len(prompts[i]),
            len(kept),
            drawn.finished and len(drawn.ids) < limit,
            _log_probs(served, prompts[i], kept) if batch[i].log_probs else (),
        )
        TOKENS.labels("prompt").inc(len(prompts[i]))
        TOKENS.labels("answer").inc(len(kept))
    return outcomes


def _log_probs(served: Served, asked: list[int], kept: list[int]) -> tuple[tuple[str, float], ...]:
    """Each token of an answer and its log-probability, in nats, at temperature 1."""
    import torch

    with torch.inference_mode():
        logits, targets, _ = answer_logits(served.loaded.model, [(asked + kept, len(asked))], served.loaded.tokenizer.pad_token_id, served.loaded.device)
        found = torch.log_softmax(logits.float(), dim=-1).gather(1, targets[:, None])[:, 0].tolist()
    return tuple(zip((served.loaded.tokenizer.decode([token]) for token in kept), found, strict=True))


def _deliver(request: Request, outcome: Answer | Exception) -> None:
    def settle() -> None:
        if request.future.done():
            return
        if isinstance(outcome, Exception):
            request.future.set_exception(outcome)
        else:
            request.future.set_result(outcome)

    request.loop.call_soon_threadsafe(settle)
