"""The steps of `clean` that look at one record at a time, and their options.

A new step is one class here, one function in `tasks/cleaning/`, and its line in `tasks.cleaning.RECORD_STEPS`.
docs/cleaning.md says what each step does and what it costs.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from flywheel.config.section import Section, Share

Policy = Literal["mask", "drop"]
PersonalKind = Literal["email", "phone", "iban", "card", "ip"]


class Step(Section):
    """One step of cleaning; `step` is its name in the config, in the counts and in the quarantine."""

    step: str

    @property
    def files(self) -> tuple[str, ...]:
        """Files and folders whose content decides what the step does, as `tasks.suites.locate` takes them."""
        return ()


class Encoding(Step):
    """Mend text that was decoded with the wrong character set (mojibake)."""

    step: Literal["encoding"] = "encoding"


class Unicode(Step):
    """NFC, one kind of space and of line end, and no control, invisible or bidirectional-override characters."""

    step: Literal["unicode"] = "unicode"


class Secrets(Step):
    """Private keys, access keys and tokens, passwords in URLs, random strings assigned to a name such as `api_key`."""

    step: Literal["secrets"] = "secrets"
    policy: Policy = Field("mask", description="mask: <secret> in its place; drop: reject the record")


class Personal(Step):
    """E-mail addresses, phone numbers, IBANs, payment cards, public IP addresses; names with a model."""

    step: Literal["personal"] = "personal"
    policy: Policy = Field("mask", description="mask: <email>, <phone>, … in its place; drop: reject the record")
    kinds: tuple[PersonalKind, ...] = ("email", "iban", "card", "ip", "phone")
    regions: tuple[str, ...] = Field(
        ("US", "GB", "DE", "FR", "IT", "ES", "NL", "CH", "IN", "AU", "JP", "BR"), description="Countries (ISO 3166) whose national phone formats are known"
    )
    names: str = Field("", description="Folder of a transformers token-classification model whose PER spans are names; empty: names stay")
    min_name_score: Share = 0.8

    @property
    def files(self) -> tuple[str, ...]:
        """The model for names."""
        return (self.names,) if self.names else ()


class Language(Step):
    """Reject a question or an answer that is surely in another language."""

    step: Literal["language"] = "language"
    allow: tuple[str, ...] = Field(("en",), min_length=1, description="ISO 639-1 codes")
    min_chars: int = Field(80, ge=1, description="Shorter texts pass: nobody can tell")
    min_confidence: Share = Field(0.9, description="Only a language that is this sure is rejected")
    sample: int = Field(120, ge=60, description="Characters looked at, from the start")


class Length(Step):
    """Reject what has nothing to say, or far too much, in characters."""

    step: Literal["length"] = "length"
    min_output: int = Field(2, ge=0)
    max_output: int = Field(8000, ge=1)
    max_prompt: int = Field(32_000, ge=1, description="Earlier turns, instruction and input together")


class Repetition(Step):
    """Reject an answer that says one thing over and over."""

    step: Literal["repetition"] = "repetition"
    max_ngrams: Share = Field(0.4, description="Share of 4-word runs that were there before")
    min_words: int = Field(20, ge=4, description="Shorter answers may repeat words")
    max_line: int = Field(10, ge=1, description="Times that one line, not blank, may be there")
    max_run: int = Field(200, ge=2, description="One character in a row")


class Profanity(Step):
    """Reject answers that swear."""

    step: Literal["profanity"] = "profanity"
    words: str = Field("config/cleaning/profanity.txt", description="File of words and phrases, one a line")
    everywhere: bool = Field(False, description="Also read the question, earlier turns and the worse answer of a preference")

    @property
    def files(self) -> tuple[str, ...]:
        """The list."""
        return (self.words,)


class Toxicity(Step):
    """Reject answers that insult or threaten."""

    step: Literal["toxicity"] = "toxicity"
    words: str = Field("config/suites/toxic-words.txt", description="File of words and phrases, one a line: what the gate counts, too")
    everywhere: bool = Field(False, description="Also read the question, earlier turns and the worse answer of a preference")
    model: str = Field("", description="Folder of a transformers sequence classifier; empty: the list alone")
    toxic_labels: tuple[str, ...] = Field(("toxic", "toxicity"), description="Labels of that model that mean: toxic")
    min_score: Share = Field(0.8, description="Of that model")

    @property
    def files(self) -> tuple[str, ...]:
        """The list, and the model."""
        return (self.words, self.model) if self.model else (self.words,)


class Hallucination(Step):
    """Reject answers that speak of being a language model when nobody asked."""

    step: Literal["hallucination"] = "hallucination"
    markers: str = Field("config/cleaning/hallucination.txt", description="File of phrases, one a line")
    asked: tuple[str, ...] = Field(
        ("ai", "artificial", "assistant", "bot", "chatbot", "chatgpt", "cutoff", "gpt", "llm", "llms"),
        description="A question with one of these words asked for it: its answer passes",
    )

    @property
    def files(self) -> tuple[str, ...]:
        """The list."""
        return (self.markers,)


# What mends comes before what judges: then the judges see the final text, and cleaning twice changes and rejects nothing more.
DEFAULT_RECORD_STEPS: tuple[Step, ...] = (
    Encoding(), Unicode(), Secrets(), Personal(), Language(), Length(), Repetition(), Profanity(), Toxicity(), Hallucination(),
)  # fmt: skip
