"""A text as a set of words, which most steps ask only whether it could hold something."""

from __future__ import annotations

from functools import lru_cache


class _Gaps(dict[int, str]):
    """For str.translate: letters, digits and `_` in lower case, all else a space; filled as characters turn up."""

    def __missing__(self, code: int) -> str:
        char = chr(code)
        self[code] = char if char.isalnum() or char == "_" else " "
        return self[code]


GAPS = _Gaps()


def split(text: str) -> list[str]:
    """The words of a text in lower case and in order, as `\\w+` sees them."""
    return text.lower().translate(GAPS).split()


@lru_cache(maxsize=8)  # several steps in a row read the same answer
def words(text: str) -> frozenset[str]:
    """Those words once each."""
    return frozenset(split(text))
