"""What the API takes and gives, with examples for its documentation page."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from flywheel.records import Message
from flywheel.settings import settings
from serving.retrieval import Retrieval

LONGEST = 1_000_000  # characters; the context decides before that
User = Annotated[str, Field(max_length=128)]
Stop = Annotated[
    tuple[Annotated[str, Field(min_length=1, max_length=100)], ...],
    BeforeValidator(lambda v: () if v is None else [v] if isinstance(v, str) else v),
    Field(max_length=4),
]
Nothing = Annotated[Literal[0] | None, Field(description="Only 0: this service has no penalties")]


def _text(content: Any) -> Any:
    """OpenAI's list of text parts as one text."""
    if isinstance(content, list) and all(isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in content):
        return "".join(part["text"] for part in content)
    return content


class Strict(BaseModel):
    """Unknown fields are refused, so a misspelt one is not silently ignored."""

    model_config = ConfigDict(extra="forbid")


class GenerateIn(Strict):
    """An instruction, as in training."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"instruction": "What does `shutil.copytree` do?", "max_new_tokens": 64}]})

    instruction: str = Field(min_length=1, max_length=LONGEST)
    input: str = Field("", max_length=LONGEST)
    max_new_tokens: int = Field(128, ge=1, le=1_000_000)
    temperature: float = Field(0.0, ge=0, le=2)
    top_p: float = Field(1.0, gt=0, le=1)
    stop: Stop = ()
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    user: User = "anonymous"
    cache: bool = Field(True, description="Whether an earlier greedy answer to the same question may be given again")
    retrieval: Retrieval | None = Field(None, description="Answer from the indexed documents, with sources")


class GenerateOut(BaseModel):
    """The answer, and the id to send feedback for."""

    answer_id: str
    response: str
    model_version: str
    prompt_tokens: int
    answer_tokens: int
    sources: list[dict[str, Any]] | None = Field(
        None, description="With `retrieval`: the passages found, with document and offsets; those shown to the model are `used`"
    )
    citations: list[dict[str, Any]] | None = Field(None, description="With `retrieval`: which characters of the answer rest on which of a source's document")


class ChatMessage(Strict):
    """One turn; its content is a text, or a list of text parts."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[str, BeforeValidator(_text)] = Field(max_length=LONGEST)
    name: str | None = Field(None, max_length=128)

    def turn(self) -> Message:
        """As the prompt renderer takes it."""
        return Message(role="system" if self.role == "developer" else self.role, content=self.content)


class StreamOptions(Strict):
    """Options of a stream."""

    include_usage: bool = False
    include_obfuscation: bool | None = None


class ResponseFormat(Strict):
    """text, or JSON where the engine can."""

    type: Literal["text", "json_object"] = "text"


class Common(Strict):
    """What OpenAI's two completion requests share. Fields without an effect here are taken at their neutral value only."""

    model: str = Field(default_factory=lambda: settings().model_name, max_length=200, description="flywheel, or flywheel:3 for one version")
    max_tokens: int | None = Field(None, ge=1, le=1_000_000)
    temperature: float | None = Field(None, ge=0, le=2, description="Default: 0, greedy")
    top_p: float | None = Field(None, gt=0, le=1)
    n: int | None = Field(None, ge=1, le=8)
    stop: Stop = ()
    seed: int | None = Field(None, ge=-(2**63), lt=2**63)
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    user: User | None = None
    frequency_penalty: Nothing = None
    presence_penalty: Nothing = None
    cache: bool = Field(True, description="Whether an earlier greedy answer to the same question may be given again")

    @model_validator(mode="after")
    def _stream_options_need_a_stream(self) -> Common:
        if self.stream_options and not self.stream:
            raise ValueError("stream_options is only for a stream")
        return self


class ChatIn(Common):
    """OpenAI's chat completion request."""

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"examples": [{"model": "flywheel", "messages": [{"role": "user", "content": "What does `os.fsync` do?"}]}]}
    )

    messages: list[ChatMessage] = Field(min_length=1, max_length=200)
    max_completion_tokens: int | None = Field(None, ge=1, le=1_000_000)
    logprobs: bool | None = None
    top_logprobs: Literal[0, 1] | None = Field(None, description="At most 1: the token itself")
    response_format: ResponseFormat | None = None
    store: bool | None = Field(None, description="Taken and ignored")
    metadata: dict[str, str] | None = Field(None, description="Taken and ignored")
    retrieval: Retrieval | None = Field(None, description="Answer from the indexed documents; the reply then has `sources` and `citations`")

    @model_validator(mode="after")
    def _last_is_the_user(self) -> ChatIn:
        if self.messages[-1].role != "user":
            raise ValueError("the last message must be the user's")
        return self


class CompletionIn(Common):
    """OpenAI's completion request: the text goes on as it stands, without a chat template."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"model": "flywheel", "prompt": "The sea is", "max_tokens": 16}]})

    prompt: Annotated[list[Annotated[str, Field(min_length=1, max_length=LONGEST)]], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = Field(
        min_length=1, max_length=16, description="A text, or a list of them"
    )
    logprobs: Literal[0, 1] | None = Field(None, description="1: of the tokens drawn")
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None


class EmbeddingsIn(Strict):
    """OpenAI's embedding request."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [{"model": "all-minilm-l6-v2", "input": ["The sea is wide."]}]})

    model: str = Field("all-minilm-l6-v2", max_length=200)
    input: Annotated[list[Annotated[str, Field(min_length=1, max_length=LONGEST)]], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)] = Field(
        min_length=1, max_length=256, description="A text, or a list of them"
    )
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(None, ge=1, description="Only the model's own")
    user: User | None = None


class FeedbackOut(BaseModel):
    """The record's id; `stored` is false when the same key was stored before; `note` says what its sender should know."""

    id: str
    stored: bool
    note: str = ""


class WithdrawIn(Strict):
    """Who takes feedback back: only who gave it can."""

    user: str = Field("anonymous", max_length=128)


class ErrorBody(BaseModel):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """What every 4xx and 5xx holds."""

    error: ErrorBody
