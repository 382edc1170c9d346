import pytest

from flywheel.config.steps import Hallucination, Profanity, Toxicity
from flywheel.errors import ContractError
from tasks.cleaning.phrases import finder, hallucination, profanity, toxicity
from tasks.cleaning.record import Texts


def answer(output, question="How tall is it?"):
    return Texts((), question, "", output)


@pytest.mark.parametrize("text", ["What the FUCK is it", "Oh, shit!", "(bullshit)", "For fuck’s sake", "“Shit”, she said"])
def test_swearing(text):
    assert profanity(Profanity())(answer(text))[1].startswith("a swear word was found (")


@pytest.mark.parametrize("text", ["Scunthorpe and Essex", "a mishit, an assassin, a cocktail", "the shiitake", "class Assembler"])
def test_words_that_only_hold_one(text):
    assert profanity(Profanity())(answer(text))[1] == ""
    assert toxicity(Toxicity())(answer(text))[1] == ""


def test_insults_and_who_may_use_them():
    rude = Texts(("You idiot",), "Why are you so stupid?", "", "I am sorry.", "Shut   up, moron")
    assert toxicity(Toxicity())(answer("Just shut\nup."))[1] == "an insult or threat was found (shut up)"
    assert toxicity(Toxicity())(rude)[1] == ""  # a kind answer to a rude question is worth learning
    assert toxicity(Toxicity(everywhere=True))(rude)[1] == "an insult or threat was found (stupid)"


@pytest.mark.parametrize(
    "text", ["As an AI language model, I cannot say.", "I'm just an AI, but", "I don’t have access to real-time data", "My knowledge cutoff is 2021"]
)
def test_a_model_that_speaks_of_itself(text):
    judge = hallucination(Hallucination())
    assert judge(answer(text))[1].startswith("the answer speaks of being a language model (")
    assert judge(answer(text, "Are you an AI?"))[1] == ""
    assert judge(answer("Fine."))[1] == judge(Texts((), "q", "", "Fine.", text))[1] == ""
    assert judge(answer("A language model predicts words; as an AI researcher would say, browse the training data."))[1] == ""


def test_a_list_of_ones_own(tmp_path):
    (tmp_path / "list.txt").write_text("\ufeff# comment\n\n  C++ ninja\nkurwa\n", "utf-8")
    find = finder(str(tmp_path / "list.txt"), "profanity.words")
    assert (find("a c++  NINJA"), find("Kurwa!"), find("kurwamać"), find("comment")) == ("c ninja", "kurwa", "", "")


@pytest.mark.parametrize(("content", "what"), [(None, "no such file"), (b"# only this\n", "list is empty"), (b"\xff\xfe", "not UTF-8")])
def test_a_list_that_is_none(tmp_path, content, what):
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(ContractError, match=what):
        profanity(Profanity(words=str(tmp_path / "list.txt")))
