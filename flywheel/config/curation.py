"""What feedback becomes: the config of `curate` and the options of its rules, which stand in the order in which they look at the records.

A new rule is one option class here, one small class in `tasks/curation/`, and its line in `tasks.curation.RULES`. docs/curation.md says
what each does. What a person has a right to (consent, withdrawal, retention) is no rule and cannot be switched off.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from flywheel.config.cleaning import NearDuplicates, each_once, named
from flywheel.config.section import Section, Share
from flywheel.config.steps import Personal, Step


class Brigading(Step):
    """A burst of the same verdict about one question and version, by people who vote alike: it counts as one person's, and a reviewer is asked."""

    step: Literal["brigading"] = "brigading"
    window_minutes: float = Field(10, gt=0)
    raters: int = Field(5, ge=2, description="So many people within the window are a burst")
    similarity: Share = Field(0.5, gt=0, description="Jaccard similarity of all that two people said, from which they belong together")


class Raters(Step):
    """How sure each record is, from how often its author agrees with the others and with reviewers (Dawid and Skene, with priors)."""

    step: Literal["raters"] = "raters"
    accuracy: float = Field(0.85, gt=0.5, lt=1, description="What is assumed of somebody unknown")
    strength: float = Field(8, gt=0, description="After so many judgements that assumption and what was measured weigh the same")
    reviewer: float = Field(0.98, gt=0.5, lt=1, description="How sure a reviewer's decision is")
    history: int = Field(20_000, ge=0, description="Earlier records, the latest ones, that are measured together with the new")


class Spam(Step):
    """Corrections that change nothing, and a phrase that somebody puts into corrections whatever was asked."""

    step: Literal["spam"] = "spam"
    words: int = Field(4, ge=2, description="Length of such a phrase; what stands in the question or the answer is none")
    questions: int = Field(4, ge=2, description="In corrections of so many questions by one person")
    share: Share = Field(0.6, gt=0, description="And in this share of that person's corrections")
    common: Share = Field(0.1, description="Unless this share of what trusted others wrote has it too: then it is how one writes here")


class Corrections(Step):
    """Corrections to supervised records, the surest and latest of each question, and to pairs with the answer they correct."""

    step: Literal["corrections"] = "corrections"
    min_sure: Share = Field(0.6, description="Less sure ones are in doubt")
    pairs: bool = Field(True, description="Also a preference: the correction before the answer")
    failure_raters: int = Field(2, ge=1, description="So many people found the answer wrong: a failure, for the regression suite")


class Preferences(Step):
    """Choices between two answers to preference records."""

    step: Literal["preferences"] = "preferences"
    min_sure: Share = 0.6


class Thumbs(Step):
    """Thumbs, and ratings other than 3, to thumb records: one for each answer."""

    step: Literal["thumbs"] = "thumbs"
    min_sure: Share = 0.8


class Ask(Step):
    """Ask reviewers about what is in doubt, and what is right where several people say that an answer is wrong: the most useful first."""

    step: Literal["ask"] = "ask"
    budget: int = Field(20, ge=0, description="Questions a batch")
    uncertainty: float = Field(1.0, ge=0, description="Weight: how near to even the chances are")
    disagreement: float = Field(1.0, ge=0, description="Weight: how evenly people are divided")
    traffic: float = Field(1.0, ge=0, description="Weight: how often it was asked in the last 30 days, on a logarithmic scale")
    novelty: float = Field(1.0, ge=0, description="Weight: how far the question is from what is learned and asked already; needs an embedder")
    embedder: str = Field("", description="all-minilm-l6-v2 (from PyPI) or a folder; empty: no novelty")


AnyRule = Annotated[
    Annotated[Brigading | Raters | Spam | Corrections | Preferences | Thumbs | Personal | NearDuplicates | Ask, Field(discriminator="step")],
    BeforeValidator(named),
]


class Curate(Section):
    """Turn feedback into training records."""

    min_batch: int = Field(20, ge=1, description="Fewer new corrections and choices between answers wait for more")
    max_wait_hours: float = Field(24, ge=0, description="After this long a batch goes all the same, however small, and whether or not people still write")
    debounce_seconds: float = Field(10, ge=0, description="A batch waits until nothing new has come for so long")
    rules: tuple[AnyRule, ...] = Field(
        (Brigading(), Raters(), Spam(), Corrections(), Preferences(), Thumbs(), Personal(), NearDuplicates(), Ask()),
        description="In this order; a bare name is a rule with its defaults; one that is left out is switched off",
    )

    @field_validator("rules")
    @classmethod
    def _each_once(cls, found: tuple[Step, ...]) -> tuple[Step, ...]:
        return each_once("rule", found)
