"""The matcher that clean and the gate share."""

from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from flywheel.config.cleaning import Decontamination
from tasks.overlap import Matcher, Text

WORDS = st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=40).map(" ".join)


def naive(record: str, example: Text, options: Decontamination) -> bool:
    """Whether both hold a run of so many words, or the record the whole question."""
    words, theirs = record.split(), example.whole.split()
    runs = [tuple(theirs[k : k + options.words]) for k in range(len(theirs) - options.words + 1)]
    question = example.prompt.split()
    if options.min_words <= len(question) < options.words:
        runs.append(tuple(question))
    return any(tuple(words[k : k + len(run)]) == run for run in runs for k in range(len(words) - len(run) + 1))


@profile(deadline=None)  # the first call imports pandas
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4), st.lists(WORDS, min_size=1, max_size=6))
def test_runs_are_those_that_a_search_word_by_word_finds(judged, records):
    options = Decontamination(words=7, min_words=3, common=100, similarity=1.0)
    texts = [Text(prompt, answer, str(i)) for i, (prompt, answer) in enumerate(judged)]
    found = Matcher(texts, options).match(range(len(records)), ["-"] * len(records), records)
    assert set(found.rows.tolist()) == {i for i, record in enumerate(records) if any(naive(f"- {record}", text, options) for text in texts)}


def test_what_goes_makes_the_runs_of_the_others_rarer():
    """A run that three hold is common; when one of them goes for another reason, the two others overlap, too."""
    example = Text("one two three four five six seven", "eight", "e")
    options = Decontamination(words=5, common=2)
    matcher = Matcher([example], options)
    prompts = ["a one two three four five", "b one two three four five", "c one two three four five"]
    assert matcher.settle([matcher.match(range(3), prompts, ["x"] * 3)]) == []
    overlaps = matcher.settle([matcher.match(range(3), [*prompts[:2], example.prompt], ["x"] * 3)])
    assert {overlap.row for overlap in overlaps} == {0, 1, 2}


def test_no_example_no_overlap():
    matcher = Matcher([], Decontamination())
    assert matcher.settle([matcher.match([1], ["a question"], ["an answer"])]) == []
