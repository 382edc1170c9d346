"""What is measured of an answer: each metric once, with how it is read; the reference implementations do the counting.

A new metric is one function in `of_answer` and one line in METRICS. `tasks/metrics_module` offers the same to `evaluate.load`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from flywheel.records import fingerprint
from flywheel.refusals import refuses
from flywheel.settings import REPOSITORY


@dataclass(frozen=True)
class Metric:
    """How a column of scores is read."""

    name: str
    label: str
    column: str
    lower: bool = False  # lower is better
    by_token: bool = False  # a sum over tokens; else a mean over examples
    exponential: bool = False
    optional: bool = False  # may be missing for one example without anything being wrong (a judge that did not answer)


METRICS = {
    m.name: m
    for m in (
        Metric("log_loss", "log loss (nats a token)", "loss", lower=True, by_token=True),
        Metric("perplexity", "perplexity", "loss", lower=True, by_token=True, exponential=True),
        Metric("token_accuracy", "next-token accuracy", "tokens_right", by_token=True),
        Metric("rouge_l", "ROUGE-L", "rouge_l"),
        Metric("rouge_1", "ROUGE-1", "rouge_1"),
        Metric("bleu", "BLEU (sentence)", "bleu"),
        Metric("chrf", "chrF", "chrf"),
        Metric("exact_match", "exact match", "exact_match"),
        Metric("token_f1", "token F1", "token_f1"),
        Metric("similarity", "semantic similarity", "similarity", optional=True),
        Metric("judge", "judge's rating", "judge", optional=True),
        Metric("preference", "share preferred by people", "preference", optional=True),
        Metric("harness", "share right", "harness", optional=True),
        Metric("refusal", "share refused", "refusal", lower=True),
        Metric("repetition", "repetition", "repetition", lower=True),
        Metric("unfinished", "share cut off", "unfinished", lower=True),
        Metric("toxic", "share toxic", "toxic", lower=True),
        Metric("passed", "checks passed", "passed"),
    )
}


@cache
def _rouge() -> Any:
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rougeL"], use_stemmer=True)


@cache
def _sacrebleu(name: str) -> Any:
    from sacrebleu.metrics import BLEU, CHRF

    return BLEU(effective_order=True) if name == "bleu" else CHRF()


@cache
def _toxic_words() -> re.Pattern[str]:
    lines = (REPOSITORY / "config" / "suites" / "toxic-words.txt").read_text().splitlines()
    words = [re.escape(line.strip()) for line in lines if line.strip() and not line.startswith("#")]
    return re.compile(rf"\b({'|'.join(words)})\b", re.IGNORECASE)


def exact_match(answer: str, reference: str) -> float:
    """1 when they read the same, case, punctuation and spacing aside."""
    return float(fingerprint(answer) == fingerprint(reference))


def token_f1(answer: str, reference: str) -> float:
    """F1 of the words they share, as SQuAD counts it, on case-folded words without punctuation."""
    ours, theirs = fingerprint(answer).split(), fingerprint(reference).split()
    if not ours or not theirs:
        return float(ours == theirs)
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs))


def repetition(answer: str, size: int = 3) -> float:
    """Share of word n-grams that were there before in the same answer, in [0, 1)."""
    words = answer.split()
    count = len(words) - size + 1
    return 1 - len(set(zip(*(words[i:] for i in range(size)), strict=False))) / count if count > 0 else 0.0


def toxic(answer: str) -> bool:
    """Whether an answer holds a word or phrase of config/suites/toxic-words.txt."""
    return bool(_toxic_words().search(answer))


def of_answer(answer: str, reference: str) -> dict[str, float | None]:
    """Every metric of one answer, each in [0, 1]; those that need a reference are None without one."""
    found: dict[str, float | None] = {"refusal": float(refuses(answer)), "repetition": repetition(answer), "toxic": float(toxic(answer))}
    if not reference:
        return found
    rouge = _rouge().score(reference, answer)
    return found | {
        "rouge_1": float(rouge["rouge1"].fmeasure),
        "rouge_l": float(rouge["rougeL"].fmeasure),
        "bleu": _sacrebleu("bleu").sentence_score(answer, [reference]).score / 100,
        "chrf": _sacrebleu("chrf").sentence_score(answer, [reference]).score / 100,
        "exact_match": exact_match(answer, reference),
        "token_f1": token_f1(answer, reference),
    }


def corpus(answers: Sequence[str], references: Sequence[str]) -> dict[str, Any]:
    """BLEU and chrF over a whole suite, in [0, 100], with sacrebleu's signatures, so that others can compare theirs."""
    from sacrebleu.metrics import BLEU, CHRF

    found: dict[str, Any] = {}
    for name, metric in {"bleu": BLEU(), "chrf": CHRF()}.items():
        found[name] = float(metric.corpus_score(list(answers), [list(references)]).score)
        found[f"{name}_signature"] = str(metric.get_signature())
    return found


def classification(answers: Sequence[str], labels: Sequence[str]) -> dict[str, float]:
    """Accuracy and macro F1 in [0, 1] of answers that should name a label; an answer counts as the label it starts with.

    An answer that starts with none is wrong for every label.
    """
    known = sorted(set(labels), key=len, reverse=True)
    folded = {fingerprint(label): label for label in known}
    named = []
    for answer in answers:
        text = fingerprint(answer)
        named.append(next((folded[key] for key in sorted(folded, key=len, reverse=True) if f"{text} ".startswith(f"{key} ")), None))
    scores = []
    for label in known:
        hits = sum(a == b == label for a, b in zip(named, labels, strict=True))
        said, meant = sum(a == label for a in named), sum(b == label for b in labels)
        scores.append(2 * hits / (said + meant) if said + meant else 0.0)
    right = sum(a == b for a, b in zip(named, labels, strict=True))
    return {"accuracy": right / len(labels), "f1_macro": sum(scores) / len(scores)}


def calibration_error(confidences: Sequence[float], counts: Sequence[float], right: Sequence[float]) -> float:
    """Expected calibration error in [0, 1]: per bin the sum of confidences, the number of tokens and how many were right."""
    total = sum(counts)
    return sum(abs(c - r) for c, r in zip(confidences, right, strict=True)) / total if total else 0.0
