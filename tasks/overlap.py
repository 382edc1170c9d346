"""What a model is judged on may not be learned: the ledger of evaluation sets, and what records have in common with an example.

`evaluation-sets/` in the store keeps every set that a model was ever judged on, each file named by its content; `evaluate` adds what
it freezes or reads. Corrections and regressions are learned by design and never there. A record overlaps an example when it asks the
same, when the whole is nearly the same, or when both hold the same long run of words (or the record the whole of a shorter question).
A run that many records hold is how such tasks are worded, and no overlap.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from flywheel import store
from flywheel.config.cleaning import Decontamination
from flywheel.manifest import Artifact
from flywheel.records import Example
from flywheel.settings import settings
from tasks import likeness, suites
from tasks.suites import Item

LEDGER = "evaluation-sets"
JUDGED = frozenset({"heldout", "general", "safety", "own"})  # roles of suites that nothing may be learned from
BATCH = 8192
ODD = 0x9E3779B97F4A7C15
ODD_INVERSE = pow(ODD, -1, 1 << 64)


def register(name: str, items: Sequence[Item]) -> None:
    """Add a set to the ledger; one that is there already is left alone."""
    data = suites.to_jsonl(items).encode()
    uri = store.join(settings().store, LEDGER, f"{name}-{hashlib.sha256(data).hexdigest()}.jsonl")
    if not store.exists(uri):
        store.write_bytes(uri, data)


def ledger() -> dict[str, Artifact]:
    """Every set in the ledger, by the name of its file."""
    names = [name for name in store.list_names(store.join(settings().store, LEDGER)) if name.endswith(".jsonl") and not name.startswith(".")]
    return {name: Artifact(uri=f"{LEDGER}/{name}", sha256=name.removesuffix(".jsonl").rsplit("-", 1)[1], bytes=0) for name in names}


class Text(NamedTuple):
    """An evaluation example as a reader sees it."""

    prompt: str
    answer: str
    name: str

    @property
    def whole(self) -> str:
        """Prompt and answer."""
        return f"{self.prompt} {self.answer}".strip()


def text_of(record: Item | Example, suite: str = "") -> Text:
    """A suite's question, or a record, as text."""
    prompt = likeness.reading(*(turn.content for turn in record.history), record.instruction, record.input)
    return Text(prompt, likeness.reading(record.output, record.rejected if isinstance(record, Example) else ""), f"{suite}:{record.id}")


class Overlap(NamedTuple):
    """A training record and the evaluation example that it overlaps."""

    row: int
    example: Text
    why: str


class Matches(NamedTuple):
    """What records have in common with the examples: `sure` (row, example, why), and the runs they hold (`rows[i]` holds `runs[i]`)."""

    sure: list[tuple[int, int, str]]
    rows: np.ndarray
    runs: np.ndarray


class Matcher:
    """Finds what records share with evaluation examples. Memory: about 150 bytes a word of the examples."""

    def __init__(self, texts: Iterable[Text], options: Decontamination) -> None:
        self.options = options
        by_reading: dict[tuple[str, str], Text] = {}
        for text in sorted(texts, key=lambda t: t.name):
            by_reading.setdefault(text[:2], text)
        self.texts = [text for _, text in sorted(by_reading.items())]
        self.asked = {text.prompt: number for number, text in reversed(list(enumerate(self.texts)))}
        lengths = np.array([len(text.prompt.split()) for text in self.texts], dtype=int)
        short = {n: np.flatnonzero(lengths == n) for n in range(options.min_words, options.words)}
        self.sizes = [options.words, *(n for n, which in short.items() if len(which))]
        runs, owners = [], []
        for size in self.sizes:
            which = np.arange(len(self.texts)) if size == options.words else short[size]
            read = [self.texts[i].whole if size == options.words else self.texts[i].prompt for i in which]
            for start in range(0, len(read), BATCH):
                words = _words(read[start : start + BATCH])
                hashes = _runs(words, size)
                found, inside = _within(words, np.arange(len(hashes)), size)
                runs.append(hashes[inside])
                owners.append(which[found + start])
        self.runs, first = np.unique(np.concatenate([np.empty(0, np.uint64), *runs]), return_index=True)
        self.owners = np.concatenate([np.empty(0, int), *owners])[first]  # the first example that holds it stands for all
        self._shift = np.uint64(64 - max(16, int(16 * len(self.runs)).bit_length()))
        self._seen = np.zeros(1 << (64 - int(self._shift)), dtype=bool)
        self._seen[self.runs >> self._shift] = True

    def match(self, rows: Sequence[int], prompts: Sequence[str], answers: Sequence[str]) -> Matches:
        """What these records share with the examples."""
        whole = [f"{prompt} {answer}" for prompt, answer in zip(prompts, answers, strict=True)]
        sure = [(row, self.asked[prompt], "asks the same as") for row, prompt in zip(rows, prompts, strict=True) if prompt in self.asked]
        texts, runs = self._shared(whole)
        for text, owners in grouped(texts, self.owners[runs]):
            nearest = int(np.bincount(owners).argmax())
            similarity = likeness.jaccard(*(likeness.grams(one.split()) for one in (whole[text], self.texts[nearest].whole)))
            if similarity >= self.options.similarity:
                sure.append((rows[text], nearest, f"is {similarity:.2f} like"))
        return Matches(sure, np.asarray(rows, dtype=np.uint64)[texts], runs)

    def _shared(self, whole: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """(text, run) of every run that a text shares with an example, once each, in order."""
        words = _words(whole)
        texts, runs = [], []
        for size in self.sizes if len(self.runs) else ():
            run = _runs(words, size)
            places = np.flatnonzero(self._seen[run >> self._shift])
            text, inside = _within(words, places, size)
            run = run[places[inside]]
            place = np.searchsorted(self.runs, run).clip(max=len(self.runs) - 1)
            there = self.runs[place] == run
            texts.append(text[there])
            runs.append(place[there])
        if not texts:
            return np.empty(0, int), np.empty(0, int)
        pairs = np.unique(np.stack([np.concatenate(texts), np.concatenate(runs)]), axis=1)
        return pairs[0], pairs[1]

    def settle(self, found: Iterable[Matches]) -> list[Overlap]:
        """Which records overlap an example: those that surely do, and those that hold a run which few of the others hold."""
        matches = list(found)
        overlaps = dict.fromkeys(one for match in matches for one in match.sure)
        rows = np.concatenate([np.empty(0, np.uint64), *(match.rows for match in matches)])
        runs = np.concatenate([np.empty(0, int), *(match.runs for match in matches)])
        new = np.fromiter((row for row, _, _ in overlaps), np.uint64)
        left = ~np.isin(rows, new)
        while True:  # what goes makes the runs it held rarer
            telling = left & (np.bincount(runs[left], minlength=len(self.runs))[runs] <= self.options.common)
            if not telling.any():
                break
            for row, run in zip(rows[telling].tolist(), runs[telling].tolist(), strict=True):
                overlaps.setdefault((row, int(self.owners[run]), f"has a run of {self.options.words} words, or a whole question, in common with"))
            left &= ~np.isin(rows, rows[telling])
        return [Overlap(row, self.texts[number], why) for row, number, why in overlaps]


class _Words(NamedTuple):
    """The words of some texts, one after the other, as 64-bit hashes: where each text begins (and the last ends), and what runs are made of."""

    starts: np.ndarray
    sums: np.ndarray  # of each hash times a power of ODD, added up
    inverse: np.ndarray  # powers of ODD_INVERSE


def _words(texts: list[str]) -> _Words:
    import daft
    import pyarrow as pa
    from pyarrow import compute
    from xxhash import xxh3_64_intdigest

    # By way of Daft and DLPack: pyarrow.array and to_numpy would import pandas.
    split = compute.split_pattern(daft.Series.from_pylist(texts, "text", daft.DataType.string()).to_arrow(), " ")
    coded = split.flatten().dictionary_encode()
    hashes = np.fromiter(map(xxh3_64_intdigest, coded.dictionary.cast(pa.binary()).to_pylist()), np.uint64, len(coded.dictionary))[
        np.from_dlpack(coded.indices)
    ]
    powers, inverse = (np.cumprod(np.full(len(hashes), factor, np.uint64)) for factor in (ODD, ODD_INVERSE))
    return _Words(np.from_dlpack(split.offsets), np.concatenate([np.zeros(1, np.uint64), np.cumsum(hashes * powers)]), inverse)


def _runs(words: _Words, size: int) -> np.ndarray:
    """A hash of every run of so many words, by its first: a polynomial over 2**64. Some reach from one text into the next."""
    count = max(0, len(words.inverse) - size + 1)
    run = (words.sums[size:] - words.sums[:count]) * words.inverse[:count] + np.uint64(size)
    return (run ^ (run >> np.uint64(32))) * np.uint64(ODD)


def _within(words: _Words, places: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Which of the runs that begin at these places lie in one text: that text for each that does, and a mask."""
    text = np.searchsorted(words.starts, places, side="right") - 1
    inside = places + size <= words.starts[text + 1]
    return text[inside], inside


def grouped(keys: np.ndarray, values: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Values of each key; the keys are in order."""
    groups, starts = np.unique(keys, return_index=True)
    yield from zip(groups.tolist(), np.split(values, starts[1:]) if len(groups) else (), strict=True)
