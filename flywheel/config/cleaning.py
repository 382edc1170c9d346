"""What may be learned from: the config of `clean`, and the options of its steps that look at the whole set."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from flywheel.config import steps
from flywheel.config.section import Section, Share
from flywheel.config.steps import Step


class ExactDuplicates(Step):
    """Of records that read the same (case, punctuation and spacing aside) keep one."""

    step: Literal["exact_duplicates"] = "exact_duplicates"


class NearDuplicates(Step):
    """Of records that are nearly the same keep one."""

    step: Literal["near_duplicates"] = "near_duplicates"
    similarity: Share = Field(0.8, gt=0, description="Jaccard similarity of 3-word shingles from which two records are one")


class Conflicts(Step):
    """One prompt that training records answer in different ways."""

    step: Literal["conflicts"] = "conflicts"
    policy: Literal["keep_feedback", "drop_all", "keep_all"] = Field(
        "keep_feedback", description="keep_feedback: where people corrected an answer, the others go; drop_all: all of them go; keep_all: they are counted"
    )


class Decontamination(Step):
    """Training records that overlap an evaluation example: this run's held-out ones, the config's suites, every set ever used."""

    step: Literal["decontamination"] = "decontamination"
    policy: Literal["reject", "stop"] = Field("reject", description="reject: those records go; stop: any overlap ends the run (exit 3)")
    words: int = Field(13, ge=5, description="A run of so many words in common is an overlap; so is the whole question where it is shorter")
    min_words: int = Field(6, ge=1, description="A shorter question counts only when the record asks the same")
    common: int = Field(10, ge=0, description="A run that more training records hold is a phrase of the task, not an overlap")
    similarity: Share = Field(0.8, gt=0, description="Jaccard similarity of 3-word shingles from which the whole is the same")


class Engine(Section):
    """Where the frame is computed. What comes out is the same, byte for byte."""

    runner: Literal["native", "ray"] = Field("native", description="native: this machine; ray: a Ray cluster")
    address: str = Field("", description="ray: e.g. ray://head:10001; empty: the cluster this process belongs to, or one started here")
    threads: int | None = Field(None, ge=1, description="native: CPU threads, and processes for the steps in Python; default: all cores")


def named(value: Any) -> Any:
    """A bare name as a step with its defaults."""
    return {"step": value} if isinstance(value, str) else value


def each_once(what: str, found: tuple[Step, ...]) -> tuple[Step, ...]:
    """The same. Raises ValueError when one stands twice."""
    names = [step.step for step in found]
    twice = next((name for name in names if names.count(name) > 1), "")
    if twice:
        raise ValueError(f"the {what} {twice} stands twice")
    return found


AnyStep = Annotated[
    Annotated[
        steps.Encoding | steps.Unicode | steps.Secrets | steps.Personal | steps.Language | steps.Length | steps.Repetition
        | steps.Profanity | steps.Toxicity | steps.Hallucination | ExactDuplicates | NearDuplicates | Conflicts | Decontamination,
        Field(discriminator="step"),
    ],
    BeforeValidator(named),
]  # fmt: skip


class Clean(Section):
    """Reject what should not be learned from; everything rejected is in quarantine with step and reason."""

    steps: tuple[AnyStep, ...] = Field(
        (*steps.DEFAULT_RECORD_STEPS, ExactDuplicates(), NearDuplicates(), Conflicts(), Decontamination()),  # type: ignore[arg-type]
        description="In this order; a bare name is a step with its defaults",
    )
    engine: Engine = Engine()
    max_rejected: Share = Field(0.5, description="Above this share of rejected records the run stops (exit 3)")
    min_records: int = Field(20, ge=1, description="Fewer clean training records stop the run (exit 3)")

    @field_validator("steps")
    @classmethod
    def _each_once(cls, found: tuple[Step, ...]) -> tuple[Step, ...]:
        return each_once("step", found)
