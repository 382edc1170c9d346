"""The one prompt renderer: training, evaluation and serving turn messages into token ids here and nowhere else.

The prompt is tokenized apart from the answer, as a server must do it, so both sides see the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from flywheel.errors import ContractError
from flywheel.records import Message

Style = Literal["auto", "chat", "instruction"]
HEADINGS = {"system": "", "user": "### Instruction:\n", "assistant": "### Response:\n"}


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
    return [*history, Message(role="user", content=f"{instruction}\n\n{input}" if input else instruction)]


def render(tokenizer: Any, turns: Sequence[Message], style: Style = "auto") -> str:
    """The text up to where the assistant begins to answer. Raises ContractError when the tokenizer has no chat template for it."""
    template = getattr(tokenizer, "chat_template", None)
    if style == "instruction" or (style == "auto" and not template):
        return "".join(f"{HEADINGS[turn.role]}{turn.content}\n\n" for turn in turns) + HEADINGS["assistant"]
    if not template:
        raise ContractError("the base model's tokenizer has no chat template", where="model.prompt", mend="Set it to `instruction`, or choose a chat model.")
    dialogue = [turn.model_dump() for turn in turns]
    return str(tokenizer.apply_chat_template(dialogue, tokenize=False, add_generation_prompt=True))


def encode(tokenizer: Any, turns: Sequence[Message], style: Style = "auto") -> list[int]:
    """Token ids of the prompt."""
    return list(tokenizer(render(tokenizer, turns, style), add_special_tokens=False)["input_ids"])


def encode_answer(tokenizer: Any, answer: str) -> list[int]:
    """Token ids of an answer and the token that ends it."""
    return [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
