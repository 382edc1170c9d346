"""The shape of a record: how long its texts are, and whether its answer says one thing over and over."""

from __future__ import annotations

import re
from collections import Counter

from flywheel.config.steps import Length, Repetition
from tasks.cleaning.record import Judge, Texts
from tasks.metrics import repetition as repeated

NGRAM = 4


def length(options: Length) -> Judge:
    """Both answers of a preference must fit; what is before them counts as one prompt."""

    def judge(texts: Texts) -> tuple[Texts, str]:
        history, instruction, input, output, rejected = texts
        if not instruction:
            return texts, "the instruction is empty"
        if len(output) < options.min_output:
            return texts, f"the answer has {len(output)} characters, fewer than {options.min_output}"
        size = max(len(output), len(rejected))
        if size > options.max_output:
            return texts, f"the answer has {size} characters, more than {options.max_output}"
        size = sum(map(len, history)) + len(instruction) + len(input)
        if size > options.max_prompt:
            return texts, f"the prompt has {size} characters, more than {options.max_prompt}"
        return texts, ""

    return judge


def repetition(options: Repetition) -> Judge:
    """Reads the answer only. n-grams are counted only where enough words are there twice to reach the limit."""
    run = re.compile(rf"(\S)\1{{{options.max_run - 1}}}")

    def judge(texts: Texts) -> tuple[Texts, str]:
        output = texts.output
        words = output.split()
        if max(map(len, words), default=0) >= options.max_run and run.search(output):
            return texts, f"one character stands {options.max_run} times in a row"
        if output.count("\n") >= options.max_line:
            times = max(Counter(filter(None, map(str.strip, output.split("\n")))).values(), default=0)
            if times > options.max_line:
                return texts, f"one line is there more than {options.max_line} times"
        if len(words) >= options.min_words and len(words) - len(set(words)) > options.max_ngrams * (len(words) - NGRAM + 1):
            share = repeated(output, NGRAM)
            if share > options.max_ngrams:
                return texts, f"more than {options.max_ngrams:.0%} of the answer's {NGRAM}-word runs are repeated"
        return texts, ""

    return judge
