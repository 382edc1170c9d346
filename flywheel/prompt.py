"""The one prompt renderer: training, evaluation and serving turn messages into token ids here and nowhere else.

The prompt is tokenized apart from the answer, as a server must do it, so both sides see the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from flywheel.errors import ContractError
from flywheel.records import Message

# What serving may add to a question's input, each under its first words; training sees it as the model did.
PASSAGES = "Answer from the passages below and nothing else."
KNOWN = "Known about this request:"
Style = Literal["auto", "chat", "instruction"]
HEADINGS = {"system": "", "user": "### Instruction:\n", "input": "### Input:\n", "assistant": "### Response:\n"}


class Question(Message):
    """A user's turn made of an instruction and an input; `content` has both, for chat templates."""

    instruction: str
    input: str


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a base model folder, padding on the left as generation needs it."""
    import transformers

    # The class that needs no guessing is ten times as quick: the Auto class imports torch.
    kind: Any = transformers.PreTrainedTokenizerFast if (folder / "tokenizer.json").exists() else transformers.AutoTokenizer
    tokenizer = kind.from_pretrained(str(folder), padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def messages(instruction: str, input: str = "", history: Sequence[Message] = ()) -> list[Message]:
    """What was said before, then an instruction and its optional input as one user turn."""
    if not input:
        return [*history, Message(role="user", content=instruction)]
    return [*history, Question(role="user", content=f"{instruction}\n\n{input}", instruction=instruction, input=input)]


def parts(turn: Message) -> tuple[str, str]:
    """(instruction, input) of a user's turn."""
    return (turn.instruction, turn.input) if isinstance(turn, Question) else (turn.content, "")


def asked(input: str) -> str:
    """A question's input without what serving added to it."""
    return input[: min((at for head in (PASSAGES, KNOWN) if (at := input.find(head)) >= 0), default=len(input))].rstrip()


def render(tokenizer: Any, turns: Sequence[Message], style: Style = "auto") -> str:
    """The text up to where the assistant begins to answer. Raises ContractError when the tokenizer has no chat template for it."""
    return render_all(tokenizer, [turns], style)[0]


def render_all(tokenizer: Any, dialogues: Sequence[Sequence[Message]], style: Style = "auto") -> list[str]:
    """`render` of each dialogue: many at once cost half as much."""
    template = getattr(tokenizer, "chat_template", None)
    if style == "instruction" or (style == "auto" and not template):
        return ["".join(f"{HEADINGS[name]}{text}\n\n" for turn in turns for name, text in _headed(turn)) + HEADINGS["assistant"] for turns in dialogues]
    if not template:
        raise ContractError("the base model's tokenizer has no chat template", where="model.prompt", mend="Set it to `instruction`, or choose a chat model.")
    plain = [[{"role": turn.role, "content": turn.content} for turn in turns] for turns in dialogues]
    return list(tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)) if plain else []


def _headed(turn: Message) -> list[tuple[str, str]]:
    return [("user", turn.instruction), ("input", turn.input)] if isinstance(turn, Question) else [(turn.role, turn.content)]


def encode(tokenizer: Any, turns: Sequence[Message], style: Style = "auto") -> list[int]:
    """Token ids of the prompt."""
    return encode_all(tokenizer, [turns], style)[0]


def encode_all(tokenizer: Any, dialogues: Sequence[Sequence[Message]], style: Style = "auto") -> list[list[int]]:
    """Token ids of each prompt."""
    return _ids(tokenizer, render_all(tokenizer, dialogues, style))


def encode_answer(tokenizer: Any, answer: str) -> list[int]:
    """Token ids of an answer and the token that ends it."""
    return encode_answers(tokenizer, [answer])[0]


def encode_answers(tokenizer: Any, answers: Sequence[str]) -> list[list[int]]:
    """`encode_answer` of each."""
    return [[*ids, tokenizer.eos_token_id] for ids in _ids(tokenizer, answers)]


def _ids(tokenizer: Any, texts: Sequence[str]) -> list[list[int]]:
    if not texts:
        return []
    return list(tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False)["input_ids"])
