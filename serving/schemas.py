"""What the API takes and gives, with examples for its documentation page."""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flywheel.records import Message
from serving.retrieval import Retrieval


class Strict(BaseModel):
    """Unknown fields are refused, so a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class GenerateIn(Strict):
    """An instruction, as in training."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"instruction": "What does `shutil.copytree` do?", "max_new_tokens": 64}]})

    instruction: str = Field(min_length=1, max_length=100_000)
    input: str = Field("", max_length=100_000)
    max_new_tokens: int = Field(128, ge=1, le=1024)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    user: str = Field("anonymous", max_length=128)
    retrieval: Retrieval | None = Field(None, description="Answer from the indexed documents, with sources")


class GenerateOut(BaseModel):
    """The answer, and the id to send feedback for."""

    answer_id: str
    response: str
    model_version: str
    prompt_tokens: int
    answer_tokens: int
    sources: list[dict[str, Any]] | None = Field(None, description="With `retrieval`: the passages shown, with document and offsets")
    citations: list[dict[str, Any]] | None = Field(None, description="With `retrieval`: which characters of the answer rest on which of a source's document")


class ChatIn(BaseModel):
    """OpenAI's chat completion request; fields that do nothing here are accepted and ignored, as its clients expect."""

    model_config = ConfigDict(
        extra="allow", json_schema_extra={"examples": [{"model": "flywheel", "messages": [{"role": "user", "content": "What does `os.fsync` do?"}]}]}
    )

    model: str = "flywheel"
    messages: list[Message] = Field(min_length=1, max_length=200)
    max_tokens: int | None = Field(None, ge=1, le=1024)
    max_completion_tokens: int | None = Field(None, ge=1, le=1024)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    n: Literal[1] = 1
    stream: Literal[False] = False
    user: str = Field("anonymous", max_length=128)
    retrieval: Retrieval | None = Field(None, description="Answer from the indexed documents; the reply then has `sources` and `citations`")

    @model_validator(mode="after")
    def _last_is_the_user(self) -> ChatIn:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return self


def chat_completion(answer_id: str, model: str, text: str, prompt_tokens: int, answer_tokens: int, finished: bool) -> dict[str, Any]:
    """OpenAI's chat completion response; its id is the answer_id that feedback names."""
    return {
        "id": answer_id, "object": "chat.completion", "created": int(time.time()), "model": model,
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop" if finished else "length"}],
        "usage": {"prompt_tokens": prompt_tokens, "completion_tokens": answer_tokens, "total_tokens": prompt_tokens + answer_tokens},
    }  # fmt: skip


class FeedbackOut(BaseModel):
    """The record's id; `stored` is false when the same key was stored before; `note` says what its sender should know."""

    id: str
    stored: bool
    note: str = ""


class WithdrawIn(Strict):
    """Who takes feedback back: only who gave it can."""

    user: str = Field("anonymous", max_length=128)
