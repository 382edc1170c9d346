import pytest

from flywheel import prompt
from flywheel.errors import ContractError
from flywheel.records import Message


def test_chat_and_instruction(tiny_model):
    tokenizer = prompt.load_tokenizer(tiny_model)
    turns = prompt.messages("Add.", "1 2")
    assert prompt.render(tokenizer, turns) == "<user>Add.\n\n1 2<end><assistant>"
    assert prompt.render(tokenizer, turns, "instruction") == "### Instruction:\nAdd.\n\n1 2\n\n### Response:\n"
    assert tokenizer.decode(prompt.encode(tokenizer, turns)) == "<user>Add.\n\n1 2<end><assistant>"
    assert prompt.encode_answer(tokenizer, "3")[-1] == tokenizer.eos_token_id
    tokenizer.chat_template = None
    with pytest.raises(ContractError, match="chat template"):
        prompt.render(tokenizer, [Message(role="user", content="x")], "chat")
