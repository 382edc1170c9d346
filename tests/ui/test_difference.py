"""What a correction changes, in HTML."""

from ui.difference import difference


def test_only_what_changes_is_marked_and_everything_is_escaped():
    assert difference("the old <b>wheel</b> turns", "the new <b>wheel</b> turns") == (
        "the <del>old</del><ins>new</ins> &lt;b&gt;wheel&lt;/b&gt; turns"
    )  # fmt: skip
    assert difference("same", "same") == "same"


def test_texts_that_share_little_or_are_very_long_stand_one_after_the_other():
    assert difference("alpha beta", "gamma") == "<del>alpha beta</del>\n<ins>gamma</ins>"
    assert difference("a " * 5000, "a " * 5000 + "b").startswith("<del>a a")
