"""One build at a time, and what it leaves alone."""

from __future__ import annotations

import pytest

from flywheel.errors import TransientError
from rag import database
from rag.index import Wanted, build
from rag.search import search


def test_of_two_builds_at_once_the_second_comes_again(indexed):
    with database.connect() as db:
        db.execute("select pg_advisory_lock(%s, hashtext(%s))", (database.BUILD_LOCK, "default"))
        with pytest.raises(TransientError, match="another build of this index runs"):
            build([], Wanted())
        assert build([], Wanted(alias="another")).passages == 0
    assert search("How long does the moon take around the earth?", 1)[0].document == "moon.md"
