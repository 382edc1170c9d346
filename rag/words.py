"""How a text is written down for full-text search: PostgreSQL's own analysis does the rest (stop words, stems, by language).

Its parser takes `shutil.copytree` for a host name and `snake_case` for two words. So a name in code is followed by its parts, and is one
word itself: a question with the whole name finds it, and so does one with a part.
"""

from __future__ import annotations

import re

_NAME = re.compile(r"\w+(?:[._]\w+)+|\w*[a-z][A-Z]\w*")
_PART = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|\d+|[^\W\d_a-zA-Z]+")
LONGEST = 2000  # bytes: a "word" beyond it is none, and PostgreSQL refuses it


def searchable(text: str) -> str:
    """The words to hand to to_tsvector, separated by spaces."""

    def spread(match: re.Match[str]) -> str:
        name = match[0]
        parts = _PART.findall(name)
        return " ".join([re.sub(r"[\W_]", "", name), *parts]) if len(parts) > 1 else name

    spaced = re.sub(r"[^\w.\s]|\.(?!\w)|(?<!\w)\.", " ", text)
    return " ".join(word for word in _NAME.sub(spread, spaced).split() if len(word) <= LONGEST // 4)
