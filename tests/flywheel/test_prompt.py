import pytest

from flywheel import prompt
from flywheel.errors import ContractError
from flywheel.records import Message


def test_chat_and_instruction(tiny_model):
    tokenizer = prompt.load_tokenizer(tiny_model)
    turns = prompt.messages("Add.", "1 2")
    assert prompt.render(tokenizer, turns) == "<user>Add.\n\n1 2<end><assistant>"
    assert prompt.render(tokenizer, turns, "instruction") == "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n"
    assert tokenizer.decode(prompt.encode(tokenizer, turns)) == "<user>Add.\n\n1 2<end><assistant>"
    assert prompt.encode_answer(tokenizer, "3")[-1] == tokenizer.eos_token_id
    tokenizer.chat_template = None
    with pytest.raises(ContractError, match="chat template"):
        prompt.render(tokenizer, [Message(role="user", content="x")], "chat")


def test_earlier_turns_without_a_chat_template(tiny_model):
    tokenizer = prompt.load_tokenizer(tiny_model)
    said = [Message(role="system", content="Be brief."), Message(role="user", content="1 + 1?"), Message(role="assistant", content="2")]
    assert prompt.render(tokenizer, prompt.messages("And 2 + 2?", history=said), "instruction") == (
        "Be brief.\n\n### Instruction:\n1 + 1?\n\n### Response:\n2\n\n### Instruction:\nAnd 2 + 2?\n\n### Response:\n"
    )


@pytest.mark.parametrize("style", ["chat", "instruction"])
def test_many_at_once_are_what_each_is_alone(tiny_model, style):
    tokenizer = prompt.load_tokenizer(tiny_model)
    dialogues = [prompt.messages("Add.", "1 2"), prompt.messages("Ünïcode?"), prompt.messages("C", history=[Message(role="user", content="x")])]
    assert prompt.encode_all(tokenizer, dialogues, style) == [prompt.encode(tokenizer, turns, style) for turns in dialogues]
    assert prompt.encode_answers(tokenizer, ["a", "", "bc"]) == [prompt.encode_answer(tokenizer, text) for text in ("a", "", "bc")]
    assert prompt.encode_all(tokenizer, [], style) == prompt.encode_answers(tokenizer, []) == []
