"""Which passage each sentence of an answer rests on, and where in its document the words stand.

Found after the answer, from the words themselves, so a citation is right whether or not the model wrote a marker.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rag.search import Hit

SUPPORT = 0.5  # least share of a sentence's words that its passage must hold
_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"[^.!?\n]*\w[^.!?\n]*(?:[.!?]+(?=\s|$)|\n|$|[.!?]+)", re.UNICODE)
_MARKER = re.compile(r"\s*\[(\d+)\]")
_EMPTY = frozenset((
    "a", "an", "and", "are", "as", "at", "be", "by", "do", "does", "for", "from", "has", "have", "how", "i", "if", "in", "is", "it", "its", "no", "not", "of", "on", "or", "that", "the", "this", "to", "was", "what", "when", "which", "will", "with", "you",
))  # fmt: skip


@dataclass(frozen=True)
class Citation:
    """Characters `start` to `end` of the answer rest on source `source` (from 1): characters `source_start` to `source_end` of its document."""

    start: int
    end: int
    source: int
    source_start: int
    source_end: int
    support: float


def words(text: str) -> list[str]:
    """Words that say something, in lower case."""
    return [word for word in (m[0].lower() for m in _WORD.finditer(text)) if word not in _EMPTY]


def without_markers(answer: str, sources: int) -> str:
    """The answer without markers like [7] that name no source there is."""
    return _MARKER.sub(lambda m: m[0] if 1 <= int(m[1]) <= sources else "", answer)


def cite(answer: str, hits: Sequence[Hit]) -> list[Citation]:
    """At most one citation a sentence: the passage that holds most of its words. A sentence that none supports has none."""
    found = []
    bags = [set(words(hit.text)) | set(words(hit.title)) for hit in hits]
    for match in _SENTENCE.finditer(answer):
        said = words(_MARKER.sub("", match[0]))
        if not said:
            continue
        shares = [sum(word in bag for word in said) / len(said) for bag in bags]
        best = max(range(len(hits)), key=lambda i: shares[i], default=None)
        if best is not None and shares[best] >= SUPPORT:
            first, last = _where(set(said), hits[best])
            lead = len(match[0]) - len(match[0].lstrip())
            found.append(Citation(match.start() + lead, match.end() - (match[0][-1:] == "\n"), best + 1, first, last, round(shares[best], 3)))
    return found


def _where(said: set[str], hit: Hit) -> tuple[int, int]:
    """The shortest stretch of the passage that holds all of these words that it has, in its document's characters."""
    spots = [(m.start(), m.end(), m[0].lower()) for m in _WORD.finditer(hit.text) if m[0].lower() in said]
    wanted, counts, left, best = len({spot[2] for spot in spots}), dict[str, int](), 0, (0, len(hit.text))
    for _, end, word in spots:
        counts[word] = counts.get(word, 0) + 1
        while len(counts) == wanted:
            if end - spots[left][0] < best[1] - best[0]:
                best = (spots[left][0], end)
            counts[spots[left][2]] -= 1
            if not counts[spots[left][2]]:
                del counts[spots[left][2]]
            left += 1
    return hit.start + best[0], hit.start + best[1]


def faithful(answer: str, hits: Sequence[Hit]) -> float:
    """The share of an answer's words that stand in its passages: 1 for a quotation, 0 for pure invention; 1 for an empty answer."""
    said = words(_MARKER.sub("", answer))
    known = {word for hit in hits for word in (*words(hit.text), *words(hit.title))}
    return sum(word in known for word in said) / len(said) if said else 1.0


def cited(answer: str, hits: Sequence[Hit], left_out: Sequence[Hit] = ()) -> dict[str, Any]:
    """An answer as it is given: without false markers, with its sources and its citations. The chain and serving both end with it.

    `hits` are what the model was shown, `left_out` what was found beside it and had no room: a source, not `used`.
    """
    text = without_markers(answer, len(hits))
    citations = cite(text, hits)
    used = {citation.source for citation in citations}
    listed = [{"number": n, "used": n <= len(hits), "cited": n in used, **asdict(hit)} for n, hit in enumerate((*hits, *left_out), 1)]
    return {"answer": text, "sources": listed, "citations": [asdict(citation) for citation in citations]}
