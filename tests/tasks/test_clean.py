import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from flywheel.config import Clean
from flywheel.records import Example, example_id
from tasks import clean


def example(instruction, output, split="train", feedback=()):
    return Example(
        id=example_id(instruction, "", output), instruction=instruction, output=output, group=instruction, split=split,
        source="t", licence="x", consent="y", feedback_ids=feedback,
    )  # fmt: skip


def test_exact_duplicates_keep_the_corrected_one():
    kept, rejected = clean.exact_duplicates([example("A?", "B."), example("a", "b", feedback=("f",)), example("C", "D")])
    assert {e.instruction for e in kept} == {"a", "C"}
    assert rejected[0][1] == "exact duplicate"


def test_near_duplicates_and_different_ones():
    words = ["the", "quick", "brown", "fox", "jumps", "over", "the", "lazy", "dog", "and", "runs", "far", "away", "into", "the", "deep", "dark", "wood"]
    one, two = " ".join(words), " ".join([*words[:-1], "forest"])
    kept, rejected = clean.near_duplicates([example("q", one), example("q", two), example("other", "nothing alike at all in here")], 0.7)
    assert [e.output for e in kept] == [one, "nothing alike at all in here"]
    assert rejected[0][1] == "near duplicate"


def test_a_question_that_is_held_out_is_not_learned():
    kept, rejected = clean.leaks([example("Same?", "x", "heldout"), example("same", "y"), example("other", "z")])
    assert [e.instruction for e in kept] == ["Same?", "other"]
    assert rejected[0][0].output == "y"


def test_lengths():
    conf = Clean(min_output_chars=3, max_output_chars=5)
    assert [bool(clean.wrong_length(example("q", text), conf)) for text in ("ab", "abc", "abcde", "abcdef")] == [True, False, False, True]


@given(st.text(min_size=1))
def test_normalised_text_is_tidy_and_its_id_is_its_own(text):
    tidy = clean.normalise(example(text, "answer"))
    assert tidy.instruction == unicodedata.normalize("NFC", tidy.instruction).strip()
    assert not [c for c in tidy.instruction if unicodedata.category(c).startswith("C") and c not in "\n\t"]
    assert tidy.id == example_id(tidy.instruction, tidy.input, tidy.output)
