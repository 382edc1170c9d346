import pytest

from flywheel.config.steps import Length, Repetition
from tasks.cleaning.record import Texts
from tasks.cleaning.shape import length, repetition


def record(output, **others):
    return Texts(**({"history": (), "instruction": "q", "input": "", "output": output} | others))


@pytest.mark.parametrize(
    ("texts", "reason"),
    [
        (record("ab"), "the answer has 2 characters, fewer than 3"),
        (record("abc"), ""),
        (record("abcde"), ""),
        (record("abcdef"), "the answer has 6 characters, more than 5"),
        (record("abc", rejected="abcdef"), "the answer has 6 characters, more than 5"),
        (record("abc", instruction=""), "the instruction is empty"),
        (record("abc", history=("1234", "5678"), input="9"), ""),
        (record("abc", history=("1234", "5678"), input="90"), "the prompt has 11 characters, more than 10"),
    ],
)
def test_lengths(texts, reason):
    assert length(Length(min_output=3, max_output=5, max_prompt=10))(texts) == (texts, reason)


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("I do not know what to say about it. " * 8, "more than 40% of the answer's 4-word runs are repeated"),
        ("no " * 19, ""),  # short
        ("again\n" * 11 + " ".join(map(str, range(40))), "one line is there more than 10 times"),
        ("again\n" * 10 + " ".join(map(str, range(40))), ""),
        ("\n" * 50 + "few words", ""),
        ("text " + "=" * 200, "one character stands 200 times in a row"),
        ("text " + "=" * 199, ""),
        ("x" * 57 + "!" * 200 + "y" * 57, "one character stands 200 times in a row"),
        ("The quick brown fox jumps over the lazy dog, and the dog sleeps on while the fox is gone and the sun goes down.", ""),
    ],
)
def test_repetition(output, reason):
    assert repetition(Repetition())(record(output))[1] == reason
    assert repetition(Repetition())(record("fine", rejected=output))[1] == ""
