import pytest

from tasks import likeness


@pytest.mark.parametrize(
    ("texts", "read"), [(("What's", "", "UP?"), "what s up"), (("+",), "+"), (("", ""), ""), ((" \u00c9t\u00e9, ", "ete"), "\u00e9t\u00e9 ete"), (("a", "!"), "a")]
)  # fmt: skip
def test_what_a_reader_sees(texts, read):
    assert likeness.reading(*texts) == read


def test_alike_finds_what_comparing_every_pair_finds():
    texts = ["a b c d e f", "a b c d e g", "x b c d e f", "p q r s t u", "a b", "a b"]
    grams = [likeness.grams(text.split()) for text in texts]
    for similarity in (0.3, 0.6, 1.0):
        every = {i for i, one in enumerate(grams) for j, other in enumerate(grams) if i != j and likeness.jaccard(one, other) >= similarity}
        assert {i for i, one in enumerate(grams) if likeness.alike({i: one}, grams[:i] + grams[i + 1 :], similarity)} == every
