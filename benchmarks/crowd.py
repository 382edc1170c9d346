"""A made-up crowd with a known truth: honest people who err, and those who are up to something. Nothing here is drawn but from the seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from flywheel.records import Feedback, Preference

START = datetime(2026, 3, 1, tzinfo=UTC)
KINDS = ("always up", "always down", "random", "slogan")
SLOGAN = "everything is better with Fizzle Cola"
WORDS = [
    f"{first}{second}"
    for first in ("lan", "mer", "or", "tim", "vel", "wil", "bar", "dus", "fen")
    for second in ("ter", "dow", "vet", "pan", "low", "chard", "bon")
]


def record(number: int, user: str, prompt: str, response: str, minutes: float = 0.0, **more: Any) -> Feedback:
    """A stored record."""
    at = START + timedelta(minutes=minutes)
    return Feedback(**{
        "id": f"{number:032x}", "answer_id": f"answer-{number}", "idempotency_key": f"key-{number:08d}", "user": user, "consent": True, "prompt": prompt,
        "response": response, "model_version": "1", "timestamp": at, "keep_until": at + timedelta(days=36_500), **more,
    })  # fmt: skip


@dataclass
class Crowd:
    """What people said, and the truth: which records say something wrong, and what each question's answer is."""

    records: list[Feedback] = field(default_factory=list)
    wrong: dict[str, bool] = field(default_factory=dict)  # by id
    answers: dict[str, str] = field(default_factory=dict)  # the right answer, by question
    good: dict[str, bool] = field(default_factory=dict)  # whether the model's answer is, by question


def crowd(seed: int, questions: int = 1000, raters: int = 200, votes: int = 5, adversaries: float = 0.2, honest: tuple[float, float] = (0.82, 0.97)) -> Crowd:
    """`votes` people judge each answer; of `raters` the given share are adversaries, a quarter of them of each kind.

    Honest ones are right with a chance of their own within `honest`; every other one who finds an answer bad says what is right, and then
    the correction is wrong as often as its author errs. Three answers in five are good.
    """
    rng = random.Random(seed)
    names = [f"rater-{number:04d}" for number in range(raters)]
    skill = {name: rng.uniform(*honest) for name in names}
    kind = {name: KINDS[number % len(KINDS)] for number, name in enumerate(rng.sample(names, round(adversaries * raters)))}
    world = Crowd()
    number = 0
    for q in range(questions):
        prompt = f"What is the {' '.join(rng.sample(WORDS, 4))} of {q}?"
        right, response = (" ".join(rng.sample(WORDS, 12)) for _ in range(2))
        good = rng.random() < 0.6
        world.answers[prompt], world.good[prompt] = right, good
        response = right if good else response
        for name in rng.sample(names, votes):
            number += 1
            up, correction = _honest(rng, skill[name], good, right)  # drawn in any case: the honest say the same with adversaries and without
            if name in kind:
                up, correction = _adversary(random.Random(f"{seed} {number}"), kind[name])
            more = {"correction": correction} if correction else {"thumb": "up" if up else "down"}
            said = record(number, name, prompt, response, minutes=rng.uniform(0, 60 * 24 * 7), **more)
            world.records.append(said)
            world.wrong[said.id] = correction != right if correction else up != good
    return world


def _honest(rng: random.Random, skill: float, good: bool, right: str) -> tuple[bool, str]:
    """Thumb and correction of one honest person about one answer."""
    seen, corrects, knows = rng.random() < skill, rng.random() < 0.5, rng.random() < skill
    nonsense = " ".join(rng.sample(WORDS, 12))
    up = seen == good
    return up, "" if up or not corrects else right if knows and not good else nonsense


def _adversary(rng: random.Random, kind: str) -> tuple[bool, str]:
    """The same of one who is up to something."""
    if kind == "slogan":
        return False, f"{' '.join(rng.sample(WORDS, 5))} {SLOGAN}"
    return rng.random() < 0.5 if kind == "random" else kind == "always up", ""


def choice(number: int, user: str, prompt: str, first: str, second: str, prefers_first: bool, side: str = "left") -> Feedback:
    """A choice between two answers; the rated one is the first."""
    better = side if prefers_first else {"left": "right", "right": "left"}[side]
    return record(number, user, prompt, first, preference=Preference(other=second, side=side, better=better))  # type: ignore[arg-type]
