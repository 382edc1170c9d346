"""How alike two texts are: what a reader sees of them, and the Jaccard similarity of their 3-grams, of words or of token ids."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from typing import TypeVar

from flywheel.records import fingerprint

Key = TypeVar("Key", bound=Hashable)
Grams = Set[tuple[Hashable, ...]]
SIZE = 3


def reading(*texts: str) -> str:
    """Texts one after the other as their words, whatever their case, punctuation and spacing; where there are none, as they stand."""
    whole = " ".join(filter(None, texts))
    return fingerprint(whole) or " ".join(whole.split())


def grams(items: Sequence[Hashable]) -> set[tuple[Hashable, ...]]:
    """Every run of three items; the whole, when there are fewer."""
    return set(zip(*(items[k:] for k in range(SIZE)), strict=False)) if len(items) >= SIZE else {tuple(items)}


def jaccard(a: Grams, b: Grams) -> float:
    """Share of the grams of both that they have in common."""
    common = len(a & b)
    return common / (len(a) + len(b) - common)


def alike(ours: Mapping[Key, Grams], others: Iterable[Grams], similarity: float) -> set[Key]:
    """Keys of ours that are at least so similar to one of the others. Only pairs that share a gram are compared."""
    holders: dict[Hashable, list[Key]] = {}
    for key, own in ours.items():
        for gram in own:
            holders.setdefault(gram, []).append(key)
    found: set[Key] = set()
    for other in others:
        candidates = {key for gram in other for key in holders.get(gram, ())} - found
        found.update(key for key in candidates if jaccard(ours[key], other) >= similarity)
    return found
