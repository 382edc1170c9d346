import pytest

from flywheel.config.steps import Encoding, Unicode
from tasks.cleaning.characters import encoding, tidy, unicode
from tasks.cleaning.record import Texts

MEND = encoding(Encoding())


@pytest.mark.parametrize(
    ("broken", "mended"),
    [
        ("la cigÃ¼eÃ±a", "la cigüeña"),
        ("itâ€™s", "it’s"),
        ("It is “quoted” &amp; fine: naïve", "It is “quoted” &amp; fine: naïve"),  # good text is left alone, also what is HTML or curly
        ("plain &amp; ASCII", "plain &amp; ASCII"),
        ("hidden Ã\u200b© inside", "hidden é inside"),  # mended although something invisible stood between
    ],
)
def test_mojibake(broken, mended):
    assert MEND(Texts((), broken, "", broken))[0] == Texts((), mended, "", mended)


@pytest.mark.parametrize(
    ("text", "tidied"),
    [
        ("e\u0301", "é"),
        ("a\u00a0b\u3000c\td", "a b c\td"),
        ("one\r\ntwo\rthree\u2028four  \nfive", "one\ntwo\nthree\nfour\nfive"),
        ("a\n\n\n\n\nb", "a\n\n\nb"),  # two blank lines are good Python
        ("x\u202ey\u2066z\ufeff\x00\x1b", "xyz"),
        ("f\u200cu\u200dn", "fun"),
        ("👩\u200d💻 می\u200cخواهم", "👩\u200d💻 می\u200cخواهم"),  # joiners that are content
        ("e\u200d\u0301\u200d👩", "é👩"),
        ("    return x\n        y", "return x\n        y"),
        ("  \n ", ""),
    ],
)
def test_tidy(text, tidied):
    assert tidy(text) == tidied
    assert tidy(tidied) == tidied


def test_a_preference_whose_worse_answer_is_nothing():
    judge = unicode(Unicode())
    assert judge(Texts((), "q", "", "a", "\u200b\u202e"))[1] == "the worse answer has no visible character"
    assert judge(Texts((), "q", "", "a", ""))[1] == ""
