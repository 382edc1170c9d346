"""Which of several records goes, and which stays."""

import pytest

from flywheel.records import Message
from tasks.cleaning import duplicates
from tests.tasks.records import cleaned, example

SENTENCE = "the quick brown fox jumps over a lazy dog and runs far away into some deep dark wood where nobody lives at all"
WORDS = SENTENCE.split()
ONE, TWO, THREE = (" ".join([*WORDS[:-n], *new]) for n, new in ((1, ["all"]), (1, ["last"]), (2, ["the", "end"])))


def kept(examples, *steps):
    return sorted(e.output for e in cleaned(examples, steps).kept)


def rejected(examples, *steps):
    return {q["record"]["output"]: q["reason"] for q in cleaned(examples, steps).quarantine}


def test_of_records_that_read_the_same_the_corrected_one_stays(home):
    asked = [example("A?", "B."), example("a", "b", feedback=("f",)), example("a", "  B!"), example("C", "D")]
    assert kept(asked, "exact_duplicates") == ["D", "b"]


def test_signs_alone_are_compared_as_they_stand(home):
    assert kept([example("+", "-"), example("+", "+"), example(" +", "+")], "exact_duplicates") == ["+", "-"]


def test_a_held_out_record_stays_even_against_a_correction(home):
    found = cleaned(
        [example("q", ONE, "heldout"), example("q", ONE, feedback=("f",)), example("q", TWO), example("other", "thing")],
        ["exact_duplicates", "near_duplicates"],
    )
    assert [e.output for e in found.heldout] == [ONE] and [e.output for e in found.train] == ["thing"]


def test_near_duplicates_hang_together(home):
    found = rejected([example("q", ONE), example("q", TWO), example("q", THREE), example("other", "nothing alike at all in here")], "near_duplicates")
    assert len(found) == 2 and all("like" in reason for reason in found.values())


def test_how_alike_is_the_true_jaccard(home):
    step = {"step": "near_duplicates", "similarity": 0.9}
    assert not rejected([example("q", ONE), example("q", THREE), example("x", "y")], step)  # 20 of 24 shingles
    assert rejected([example("q", ONE), example("q", TWO), example("x", "y")], step)  # 21 of 23


def test_a_kind_is_a_duplicate_only_of_its_own(home):
    liked, disliked = example("q", ONE, liked=True), example("q", ONE, liked=False)
    better = example("q", ONE, rejected="worse")
    assert len(kept([example("q", ONE), liked, disliked, better], "exact_duplicates", "near_duplicates")) == 4


def test_what_was_said_before_is_part_of_the_prompt(home):
    turns = [(Message(role="user", content=text),) for text in ("about cats", "about dogs")]
    assert len(kept([example("Go on.", "Well.", history=turn) for turn in turns], "exact_duplicates")) == 2


def test_a_crowd_in_one_bucket_leaves_one(home):
    crowd = [example("q", " ".join([*WORDS, *WORDS[::-1], f"variant{i}"])) for i in range(100)]
    assert len(kept(crowd, "near_duplicates")) == 1


@pytest.mark.parametrize(
    ("policy", "left"), [("keep_feedback", ["corrected", "one", "two"]), ("drop_all", ["other"]), ("keep_all", ["corrected", "old", "older", "one", "two"])]
)
def test_conflicting_answers_go_by_policy_and_are_counted(home, policy, left):
    asked = [example("Q?", "old"), example("q", "older"), example("Q", "corrected", feedback=("f",)), example("R", "one"), example("r", "two")]
    asked += [example("Q?", "held out", "heldout"), example("S", "other")]
    found = cleaned(asked, [{"step": "conflicts", "policy": policy}])
    assert sorted(e.output for e in found.kept) == sorted({*left, "held out", "other"})
    assert found.manifest.metrics["conflicts"] == 2


@pytest.mark.parametrize("similarity", [0.5, 0.7, 0.8, 0.9])
def test_bands_miss_few_at_the_threshold(similarity):
    rows = duplicates.rows_a_band(similarity)
    assert 1 - (1 - similarity**rows) ** (duplicates.HASHES // rows) >= duplicates.RECALL
