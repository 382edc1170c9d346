"""Passages stand where their documents say, and are cut where an author would."""

from __future__ import annotations

import inspect
import textwrap

from hypothesis import given, settings
from hypothesis import strategies as st

from rag.documents import Document
from rag.splitting import split

MARKDOWN = "Intro.\n\n# One\n\nFirst.\n\n## Two\n\nSecond.\n\n```\n# no heading\n```\n\n# Three\n\nThird."


def test_headings_are_the_titles_and_a_comment_in_code_is_none():
    found = [(p.title, p.text.split("\n")[0]) for p in split(Document("d", MARKDOWN, "markdown", "Guide"))]
    assert found == [("Guide", "Intro."), ("Guide › One", "# One"), ("Guide › One › Two", "## Two"), ("Guide › Three", "# Three")]


def test_definitions_are_passages_with_their_whole_name():
    found = {p.title: p.text for p in split(Document("d", inspect.getsource(textwrap), "code", "textwrap"))}
    assert "Collapse and truncate" in found["textwrap.shorten"] and "TextWrapper" not in found["textwrap.shorten"].split("\n")[0]
    assert found["textwrap.TextWrapper.fill"].startswith("def fill")


def test_code_that_does_not_parse_is_text():
    assert [p.text for p in split(Document("d", "def broken(:\n  pass", "code"))] == ["def broken(:\n  pass"]


def test_a_form_feed_moves_no_offset():
    source = "x = 1\n\x0c\ndef f():\n    return 1\n"
    assert {p.title: p.text for p in split(Document("d", source, "code", "m"))}["m.f"] == "def f():\n    return 1"


def test_one_line_of_five_megabytes():
    found = list(split(Document("d", "word " * 1_000_000), 8000))
    assert len(found) > 600 and max(len(p.text) for p in found) <= 8000


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab. \n#`é", max_size=400), st.sampled_from(["markdown", "text", "code"]), st.integers(0, 30))
def test_nothing_is_lost_and_every_offset_is_right(text, kind, overlap):
    document = Document("d", text, kind)
    found = list(split(document, 100, overlap))
    covered = set()
    for p in found:
        assert 0 <= p.start < p.end <= len(text) and len(p.text) <= 100
        covered |= set(range(p.start, p.end))
    assert all(i in covered for i, c in enumerate(text) if c.isalnum())
