"""Lists of words and phrases: profanity, toxicity, and the marks of a model that speaks of itself.

A text is split into words once; the pattern of a list is tried only where every word of one of its phrases is there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

from flywheel import store
from flywheel.config.steps import Hallucination, Profanity, Toxicity
from flywheel.errors import ContractError
from tasks.cleaning import models
from tasks.cleaning.record import Judge, Texts
from tasks.cleaning.words import split, words
from tasks.suites import locate

Find = Callable[[str], str]


def profanity(options: Profanity) -> Judge:
    """Rejects by the first word found."""
    find = finder(options.words, "profanity.words")

    def judge(texts: Texts) -> tuple[Texts, str]:
        found = _first(find, texts, options.everywhere)
        return texts, f"a swear word was found ({found})" if found else ""

    return judge


def toxicity(options: Toxicity) -> Judge:
    """Rejects by the first phrase found, then by the classifier where there is one."""
    find = finder(options.words, "toxicity.words")
    score = models.classifier(options.model, options.toxic_labels) if options.model else None

    def judge(texts: Texts) -> tuple[Texts, str]:
        found = _first(find, texts, options.everywhere)
        if found:
            return texts, f"an insult or threat was found ({found})"
        if score and any(score(text) >= options.min_score for text in _read(texts, options.everywhere)):
            return texts, f"the toxicity classifier is at least {options.min_score:.0%} sure"
        return texts, ""

    return judge


def hallucination(options: Hallucination) -> Judge:
    """Reads the answer; a question that speaks of AI has asked for such a sentence."""
    find = finder(options.markers, "hallucination.markers")
    asked = frozenset(map(str.lower, options.asked))

    def judge(texts: Texts) -> tuple[Texts, str]:
        found = find(texts.output)
        if found and asked.isdisjoint(words(f"{texts.instruction} {texts.input}")):
            return texts, f"the answer speaks of being a language model ({found})"
        return texts, ""

    return judge


def finder(path: str, option: str) -> Find:
    """From a text to the first phrase of a file that it holds, in lower case, or an empty string. Whole words, any case.

    Raises ContractError when the file is not there or not UTF-8.
    """
    where = f"clean.steps: {option}: {path}"
    try:
        text = store.read_bytes(locate(path)).decode("utf-8-sig")
    except FileNotFoundError as error:
        raise ContractError("there is no such file", where=where, mend="Mend the path.") from error
    except UnicodeDecodeError as error:
        raise ContractError("this is not UTF-8 text", where=where, mend="Save it as UTF-8.") from error
    phrases = [split(line) for line in text.splitlines() if not line.lstrip().startswith("#")]
    phrases = [phrase for phrase in phrases if phrase]
    if not phrases:
        raise ContractError("the list is empty", where=where, mend="Write a phrase a line, or leave the step out.")
    by_longest: dict[str, list[frozenset[str]]] = {}
    for phrase in phrases:
        by_longest.setdefault(max(phrase, key=len), []).append(frozenset(phrase))
    longest = frozenset(by_longest)
    between = r"\W{1,4}"  # a space, an apostrophe, a comma and a space
    forms = sorted((between.join(map(re.escape, phrase)) for phrase in phrases), key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(forms)})(?!\w)", re.IGNORECASE)

    def find(text: str) -> str:
        there = words(text)
        if not any(phrase <= there for word in longest & there for phrase in by_longest[word]):
            return ""
        found = pattern.search(text)
        return " ".join(split(found[0])) if found else ""

    return find


def _read(texts: Texts, everywhere: bool) -> Iterable[str]:
    return (texts.output, texts.instruction, texts.input, texts.rejected, *texts.history) if everywhere else (texts.output,)


def _first(find: Find, texts: Texts, everywhere: bool) -> str:
    if not everywhere:
        return find(texts.output)
    return next(filter(None, map(find, _read(texts, everywhere))), "")
