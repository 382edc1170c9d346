"""The one interface to what decodes. An engine loads versions; a model, one loaded version, streams the pieces of an answer.

A new engine is one module here with a `load`, and its name in `serving.settings` and `serving.engines.create`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from flywheel.prompt import Style
from flywheel.records import Message


@dataclass(frozen=True)
class Decoding:
    """How an answer is drawn; temperature 0 is greedy."""

    max_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    logprobs: bool = False
    json: bool = False


@dataclass(frozen=True)
class Token:
    """One token of an answer as text, and its log-probability in nats."""

    text: str
    logprob: float


@dataclass(frozen=True)
class Piece:
    """A part of an answer as it comes. The last one has `finish`, and the tokens read and written."""

    text: str = ""
    tokens: tuple[Token, ...] = ()
    finish: Literal["", "stop", "length"] = ""
    prompt_tokens: int = 0
    answer_tokens: int = 0


@dataclass(frozen=True)
class Wanted:
    """What a version is made of: its name ("base" or a number), the base model, its adapter if it has one, and its prompt style."""

    version: str
    base: Path
    adapter: Path | None
    style: Style


class Model(Protocol):
    """One loaded version."""

    version: str
    can: frozenset[str]  # of "logprobs", "json", "seed"

    def stream(self, turns: Sequence[Message] | str, decoding: Decoding) -> AsyncGenerator[Piece, None]:
        """The answer to a conversation, or what follows a text as it stands. Closing the iterator cancels.

        Raises ContractError when the prompt and the answer do not fit the context, TransientError when decoding fails.
        """
        ...

    def room(self, turns: Sequence[Message], tokens: int) -> int:
        """The tokens left of the context beside this conversation and an answer of so many: below 0 they do not fit. 0 where nobody can tell."""
        ...

    def close(self) -> None:
        """Give back what it holds. Called once, when nothing runs on it any more."""
        ...


class Engine(Protocol):
    """Something that can load versions side by side."""

    def load(self, wanted: Wanted) -> Model:
        """Blocks until the version has answered a first token. Raises ContractError or TransientError; others stay as they are."""
        ...


class Text:
    """Turns what is decoded into what is shown: cuts at a stop string, holds back what may become one, and outer white space."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        self.stop = stop
        self.stopped = False
        self._held = ""
        self._begun = False

    def add(self, text: str, last: bool = False) -> str:
        """What can be shown now; nothing after a stop."""
        if self.stopped:
            return ""
        self._held += text
        cuts = [at for s in self.stop if (at := self._held.find(s)) >= 0]
        if cuts:
            self.stopped, self._held, last = True, self._held[: min(cuts)], True
        keep = 0 if last else max((n for s in self.stop for n in range(1, len(s)) if self._held.endswith(s[:n])), default=0)
        ready = self._held[: len(self._held) - keep].rstrip()
        self._held = self._held[len(ready) :]
        if not self._begun:
            ready = ready.lstrip()
            self._begun = bool(ready)
        return ready
