"""Records that cross a room's border."""

from __future__ import annotations

import hashlib
import unicodedata
from datetime import datetime
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Split = Literal["train", "heldout", "reserve"]


class Example(BaseModel):
    """One instruction, optional input, and the answer to learn."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str = Field(description="`example_id` of the three texts: the same text is the same record everywhere")
    instruction: str = Field(min_length=1)
    input: str = ""
    output: str = Field(min_length=1)
    group: str = Field(description="Records of one group are never split between training and evaluation")
    split: Split = "train"
    slice: str = Field("", description="What kind of record this is: evaluation looks at each kind apart. Empty: the source's name")
    source: str
    licence: str
    consent: str
    feedback_ids: tuple[str, ...] = ()


def example_id(instruction: str, input: str, output: str) -> str:
    """128 bits of SHA-256 over the three texts, as hex."""
    return hashlib.sha256("\x1f".join((instruction, input, output)).encode()).hexdigest()[:32]


def fingerprint(text: str) -> str:
    """A text without case, punctuation, accents' encoding and spacing: equal for what a reader calls the same."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join("".join(c if c.isalnum() else " " for c in folded).split())


def question(instruction: str, input: str) -> str:
    """The default group: the same question, instruction and input together, is never on two sides."""
    return fingerprint(f"{instruction} {input}")


class Message(BaseModel):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class FeedbackIn(BaseModel):
    """What `POST /v1/feedback` takes."""

    model_config = ConfigDict(extra="forbid")

    answer_id: str = Field(min_length=1, max_length=64, description="The id that came with the answer")
    idempotency_key: str = Field(min_length=8, max_length=128, description="Made by the client; sending the same twice stores one record")
    thumb: Literal["up", "down"] | None = None
    rating: int | None = Field(None, ge=1, le=5)
    correction: str | None = Field(None, min_length=1, max_length=20_000, description="The answer as it should have been")
    comment: str | None = Field(None, max_length=5_000)
    tags: tuple[str, ...] = Field((), max_length=20)
    user: str = Field("anonymous", max_length=128)
    consent: bool = Field(False, description="May be used for training")


class Feedback(FeedbackIn):
    """A stored record: what was said about which answer of which model."""

    id: str
    timestamp: datetime
    prompt: str
    input: str = ""
    response: str
    model_version: str
