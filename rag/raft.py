"""Retrieval-aware training records, after RAFT (Zhang et al., 2024): a question with its passage among distractors, as serving shows them.

The right passage is the one that holds the answer's words. Some records get distractors only, and teach the model to say so.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from rag.citing import faithful
from rag.grounding import UNKNOWN, context
from rag.search import Hit

HOLDS = 0.7  # least share of the answer's words that the right passage has


def right(answer: str, hits: Sequence[Hit]) -> Hit | None:
    """The passage that holds most of the answer; None when none holds enough of it."""
    best = max(hits, key=lambda hit: faithful(answer, [hit]), default=None)
    return best if best and faithful(answer, [best]) >= HOLDS else None


def record(answer: str, hits: Sequence[Hit], dice: random.Random, distractors: int, without_answer: float, characters: int) -> tuple[str, str] | None:
    """(input, output) of one record; None when no passage holds its answer: such a record would teach the model to invent."""
    found = right(answer, hits)
    if found is None:
        return None
    others = [hit for hit in hits if hit is not found and faithful(answer, [hit]) < HOLDS][: distractors + 1]
    if others and dice.random() < without_answer:
        shown, output = others, UNKNOWN
    else:
        shown, output = [found, *others[:distractors]], answer
    dice.shuffle(shown)
    return context([(hit.title, hit.text) for hit in shown], characters), output
