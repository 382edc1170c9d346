"""One answer from a question to the ledger: route, cache, queue, decode, store. Every route that answers goes through here.

An answer is stored before its last part is given, so that feedback always finds it.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, field

from prometheus_client import Counter, Histogram

from flywheel import ledger
from flywheel.errors import ContractError, FlywheelError, NotFound
from flywheel.records import Message
from flywheel.registry import Desired
from flywheel.settings import settings
from serving import outcomes, tracing
from serving.admission import Admission, Busy
from serving.auth import ANYBODY, Principal
from serving.engines.base import Decoding, Piece, Token
from serving.group_commit import GroupCommit
from serving.limits import Limits
from serving.pool import Pool
from serving.privacy import log_answer
from serving.settings import serving

log = logging.getLogger("flywheel.serving")
ANSWERS = Counter("flywheel_answers_total", "Answers given, by the version that gave them", ["version"])
TOKENS = Counter("flywheel_tokens_total", "Tokens, by direction", ["direction"])
for direction in ("prompt", "answer"):
    TOKENS.labels(direction)  # there from the start, at 0: KEDA takes a figure that is missing for an error, and scales by it
FIRST = Histogram("flywheel_first_token_seconds", "Time to the first token, the wait included", buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30))
EACH = Histogram("flywheel_token_seconds", "Time for each token after the first", buckets=(0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5))
CACHE = Counter("flywheel_cached_answers_total", "Greedy questions looked up among earlier answers", ["outcome"])
for outcome in ("hit", "miss"):
    CACHE.labels(outcome)


@dataclass(frozen=True)
class Question:
    """What is asked, how, by whom. `text` and `input` are what the ledger keeps as the prompt."""

    turns: tuple[Message, ...] | str
    decoding: Decoding
    text: str
    input: str = ""
    user: str = "anonymous"
    caller: Principal = ANYBODY
    session: str = ""
    version: str = ""  # empty: whoever the rollout gives this person
    cache: bool = True
    known: str = ""  # what features say, for the model to see
    compared: bool = True  # whether the answer counts in a rollout's comparison: who was sent to a version is no fair sample
    settled: str = ""  # the answer, where no model has to be asked

    @property
    def person(self) -> str:
        """Who keeps one version through a rollout: the user, else the session; a stranger is somebody new each time."""
        return self.session or (self.user if self.user != "anonymous" else f"{random.getrandbits(128):032x}")


@dataclass
class Answer:
    """An answer as it grows; whole when `finish` is set."""

    version: str
    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    text: str = ""
    tokens: list[Token] = field(default_factory=list)
    finish: str = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0
    cached: bool = False
    seconds: float = 0.0  # at the engine, the wait not counted


def store_answers(given: list[ledger.NewAnswer]) -> list[None]:
    """Commit answers together. Raises TransientError, for all, when the database is away."""
    ledger.add_answers(given)
    return [None] * len(given)


class Answerer:
    """Answers questions from the pool's versions. Lives on one event loop."""

    def __init__(self, pool: Pool, limits: Limits) -> None:
        self.pool, self.limits, self.admission = pool, limits, Admission()
        self.store: GroupCommit[ledger.NewAnswer, None] = GroupCommit(store_answers)
        self._cache: OrderedDict[tuple[object, ...], tuple[Piece, ...]] = OrderedDict()

    async def version_for(self, question: Question) -> str:
        """The version that will answer, loaded. Raises NotFound, TransientError."""
        version = self.pool.route(question.person, question.version)
        await self.pool.ensure(version)
        return version

    async def whole(self, question: Question) -> Answer:
        """The whole answer, stored. Raises ContractError, NotFound, TransientError, Busy."""
        answer = Answer(await self.version_for(question))
        async with aclosing(self.stream(question, answer)) as pieces:
            async for _ in pieces:
                pass
        answer.text = answer.text.strip()
        return answer

    async def stream(self, question: Question, answer: Answer) -> AsyncGenerator[Piece, None]:
        """The pieces of the answer of `answer.version`, which fills `answer` too. Ends in TransientError when it takes too long."""
        began, side = time.monotonic(), outcomes.side_of(self.pool.desired, answer.version) if question.compared else None
        try:
            async with asyncio.timeout(serving().request_seconds), aclosing(self._pieces(question, answer, began)) as pieces:
                async for piece in pieces:
                    answer.text += piece.text
                    answer.tokens += piece.tokens
                    if piece.finish:
                        answer.finish, answer.prompt_tokens, answer.answer_tokens = piece.finish, piece.prompt_tokens, piece.answer_tokens
                        await self.store.add(
                            ledger.NewAnswer(answer.id, question.text, question.input, answer.text.strip(), answer.version, question.user)
                        )  # before the end is given
                    yield piece
        except TimeoutError:
            outcomes.add(side, answer.version, time.monotonic() - began, failed=True)
            raise Busy(f"the answer took more than {serving().request_seconds:g} s", status=503, retry_after=self.admission.seconds) from None
        except (Busy, ContractError):
            raise
        except (FlywheelError, RuntimeError):
            outcomes.add(side, answer.version, time.monotonic() - began, failed=True)
            raise
        self._told(question, answer, side)

    def _told(self, question: Question, answer: Answer, side: outcomes.Side | None) -> None:
        ANSWERS.labels(answer.version).inc()
        TOKENS.labels("prompt").inc(answer.prompt_tokens)
        TOKENS.labels("answer").inc(answer.answer_tokens)
        outcomes.keep(asyncio.create_task(self.limits.spend(question.caller, answer.prompt_tokens + answer.answer_tokens)))
        if not answer.cached:
            outcomes.add(side, answer.version, answer.seconds, answer.text, answer.answer_tokens)
        log_answer(question.text, answer)
        desired = self.pool.desired
        if desired.live and desired.stage == "shadow" and answer.version == self.pool.champion and not self.admission.waiting:
            outcomes.keep(asyncio.create_task(self._shadow(question, desired)))

    async def _shadow(self, question: Question, desired: Desired) -> None:
        """The same question to the challenger, for the comparison only: nobody sees it, and it is not stored."""
        began, text, count, version = time.monotonic(), "", 0, desired.challenger_name
        side = outcomes.side_of(desired, version)
        if version not in self.pool.versions():
            return
        try:
            async with self.admission.turn("shadow"), asyncio.timeout(serving().request_seconds):
                began = time.monotonic()
                with self.pool.use(version) as model:
                    async for piece in model.stream(question.turns, question.decoding):
                        text, count = text + piece.text, piece.answer_tokens
        except Busy:
            return
        except Exception:
            outcomes.add(side, version, time.monotonic() - began, failed=True)
            return
        outcomes.add(side, version, time.monotonic() - began, text, count)

    async def _pieces(self, question: Question, answer: Answer, began: float) -> AsyncGenerator[Piece, None]:
        """What is settled; or from the cache, or the engine."""
        if question.settled:
            answer.cached = True  # it says nothing of the version
            yield Piece(question.settled, finish="stop")
            return
        key = (answer.version, question.turns, question.decoding)
        usable = question.cache and question.decoding.temperature == 0 and serving().cache_answers > 0
        if usable and key in self._cache:
            CACHE.labels("hit").inc()
            self._cache.move_to_end(key)
            answer.cached = True
            for piece in self._cache[key]:
                yield piece
            return
        if usable:
            CACHE.labels("miss").inc()
        made: list[Piece] = []
        first = last = admitted = 0.0
        # kept from before the wait, so that the version is still there after it
        with tracing.decoding(answer.version, answer.id), self.pool.use(answer.version) as model:
            _check(question.decoding, model.can)
            async with self.admission.turn(question.caller.name), aclosing(model.stream(question.turns, question.decoding)) as pieces:
                admitted = time.monotonic()
                async for piece in pieces:
                    last = time.monotonic()
                    if not first:
                        first = last
                        FIRST.observe(first - began)
                    made.append(piece)
                    if not piece.finish:
                        yield piece
        end = made[-1]
        if end.answer_tokens > 1:
            EACH.observe((last - first) / (end.answer_tokens - 1))
        answer.seconds = last - admitted
        if usable:
            self._cache[key] = tuple(made)
            while len(self._cache) > serving().cache_answers:
                self._cache.popitem(last=False)
        yield end  # its place at the engine is another's by now: an answer is stored before its end is given, and that takes a while


def _check(decoding: Decoding, can: frozenset[str]) -> None:
    for name, field_name, wanted in (("logprobs", "logprobs", decoding.logprobs), ("json", "response_format", decoding.json)):
        if wanted and name not in can:
            raise ContractError("this engine cannot do it", where=field_name, mend="Leave it out.")


def pinned(model: str) -> str:
    """The version that a request's `model` names: `flywheel` none, `flywheel:3` that one. Raises NotFound for another model."""
    name, _, version = model.partition(":")
    if name != settings().model_name or (version and not (version.isdigit() or version == "base")):
        raise NotFound("there is no such model", where=f"model {model[:100]}", mend=f"Ask for {settings().model_name}; GET /v1/models lists versions.")
    return version
