"""Records that cross a room's border."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, model_validator

Split = Literal["train", "heldout", "reserve"]
Kind = Literal["supervised", "preference", "thumb"]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=64)]


class Message(BaseModel):
    """One turn of a conversation."""

    model_config = ConfigDict(frozen=True)

    role: Literal["system", "user", "assistant"]
    content: str


class Example(BaseModel):
    """One question and what there is to learn about it.

    supervised: `output` is the answer to learn. preference: `output` is better than `rejected`.
    thumb: `output` is an answer that somebody liked or did not; it is never learned as it stands.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="`example_id` of the texts: the same text is the same record everywhere")
    history: tuple[Message, ...] = Field((), description="Turns before the instruction, a system message included")
    instruction: str = Field(min_length=1)
    input: str = ""
    output: str = Field(min_length=1)
    rejected: str = ""
    liked: bool | None = None
    group: str = Field(description="Records of one group are never split between training and evaluation")
    split: Split = "train"
    slice: str = Field("", description="What kind of record this is: evaluation looks at each kind apart. Empty: the source's name")
    source: str
    licence: str
    consent: str
    feedback_ids: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """What it is good for: supervised, preference or thumb."""
        return "preference" if self.rejected else "supervised" if self.liked is None else "thumb"

    def edited(self, **texts: Any) -> Example:
        """A copy with other texts, and the id that follows from them."""
        copy = self.model_copy(update=texts)
        new = example_id(copy.instruction, copy.input, copy.output, history=copy.history, rejected=copy.rejected, liked=copy.liked)
        return copy.model_copy(update={"id": new})


def example_id(instruction: str, input: str, output: str, *, history: Sequence[Message] = (), rejected: str = "", liked: bool | None = None) -> str:
    """128 bits of SHA-256 over the texts, as hex."""
    parts = [instruction, input, output]
    if history or rejected or liked is not None:
        parts += [rejected, str(liked), *(f"{turn.role}\x1e{turn.content}" for turn in history)]
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()[:32]


_NO_WORDS = re.compile(r"[\W_]+")
_ASCII_WORDS = {code: chr(code).lower() if chr(code).isalnum() else " " for code in range(128)}


def fingerprint(text: str) -> str:
    """A text without case, punctuation, accents' encoding and spacing: equal for what a reader calls the same."""
    if text.isascii():  # the same, eight times as fast
        return " ".join(text.translate(_ASCII_WORDS).split())
    return _NO_WORDS.sub(" ", unicodedata.normalize("NFKC", text).casefold()).strip()


def question(instruction: str, input: str) -> str:
    """The default group: the same question, instruction and input together, is never on two sides."""
    return fingerprint(f"{instruction} {input}")


class Preference(BaseModel):
    """Which of two answers somebody found better. They were shown side by side, unnamed; `side` is where the rated one stood."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    other_id: str | None = Field(None, min_length=1, max_length=64, description="Id of the other answer")
    other: str | None = Field(None, min_length=1, max_length=20_000, description="Its text, where it has no id")
    side: Literal["left", "right"]
    better: Literal["left", "right", "tie", "both bad"]

    @model_validator(mode="after")
    def _one_other(self) -> Preference:
        if (self.other_id is None) == (self.other is None):
            raise ValueError("give the other answer's id or its text, one of them")
        return self

    @property
    def won(self) -> bool | None:
        """Whether the rated answer was the better one; None when neither was."""
        return None if self.better in ("tie", "both bad") else self.better == self.side


class FeedbackIn(BaseModel):
    """What `POST /v1/feedback` takes."""

    model_config = ConfigDict(extra="forbid")

    answer_id: str = Field(min_length=1, max_length=64, description="The id that came with the answer")
    idempotency_key: str = Field(min_length=8, max_length=128, description="Made by the client; sending the same twice stores one record")
    thumb: Literal["up", "down"] | None = None
    rating: int | None = Field(None, ge=1, le=5)
    correction: str | None = Field(None, min_length=1, max_length=20_000, description="The answer as it should have been")
    comment: str | None = Field(None, max_length=5_000)
    tags: tuple[Tag, ...] = Field((), max_length=20)
    preference: Preference | None = None
    signal: Literal["copied", "regenerated", "abandoned"] | None = Field(None, description="What somebody did with the answer, unasked")
    user: str = Field("anonymous", max_length=128)
    source: Literal["ui", "api", "label-studio", "import", "review"] = Field("api", description="review: a reviewer's decision, which the ledger alone writes")
    consent: bool = Field(False, description="May be used for training")
    keep_until: AwareDatetime | None = Field(None, description="To be forgotten after this; never later than the service's own retention")
    given_at: AwareDatetime | None = Field(None, description="By the client's clock. It is kept, and the service's own clock decides")
    supersedes: str | None = Field(None, min_length=1, max_length=128, description="Id or key of an earlier record of the same person that this one replaces")

    @model_validator(mode="after")
    def _can_be_stored(self) -> FeedbackIn:
        if "\x00" in "".join(_texts(self.model_dump())):
            raise ValueError("a text holds the character NUL, which cannot be stored: remove it")
        if self.supersedes == self.idempotency_key:
            raise ValueError("supersedes names this very record: name an earlier one")
        return self

    @property
    def verdict(self) -> str:
        """The judgement in a word: a thumb, a rating, a choice, a signal; empty for a mere comment."""
        chosen = self.preference.better if self.preference else None
        return self.thumb or (f"{self.rating}/5" if self.rating else None) or chosen or self.signal or ("corrected" if self.correction else "")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list | tuple):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


class Feedback(FeedbackIn):
    """A stored record: what was said about which answer of which model."""

    id: str
    timestamp: datetime
    keep_until: AwareDatetime
    prompt: str
    input: str = ""
    response: str
    model_version: str
    withheld: str = Field("", description="Why it may not be learned from: superseded, withdrawn; empty when it may")
