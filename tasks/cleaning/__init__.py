"""The steps of `clean`. Those of one record are functions of its texts; each is made once from its options.

A new one is an option class in `flywheel/config/steps.py`, a maker in a module here, and a line in RECORD_STEPS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flywheel.config import steps
from tasks.cleaning.characters import encoding, unicode
from tasks.cleaning.language import language
from tasks.cleaning.personal import personal
from tasks.cleaning.phrases import hallucination, profanity, toxicity
from tasks.cleaning.record import Judge
from tasks.cleaning.secrets import secrets
from tasks.cleaning.shape import length, repetition

RECORD_STEPS: dict[type[steps.Step], Callable[[Any], Judge]] = {
    steps.Encoding: encoding,
    steps.Unicode: unicode,
    steps.Secrets: secrets,
    steps.Personal: personal,
    steps.Language: language,
    steps.Length: length,
    steps.Repetition: repetition,
    steps.Profanity: profanity,
    steps.Toxicity: toxicity,
    steps.Hallucination: hallucination,
}
