"""In which language a text is written: py3langid, asked only where common English words do not answer."""

from __future__ import annotations

from flywheel.config.steps import Language
from flywheel.errors import ContractError
from tasks.cleaning.record import Judge, Texts

# Words that are common in English and no word of its neighbours.
ENGLISH = frozenset(
    (
        "the",
        "and",
        "of",
        "to",
        "with",
        "that",
        "this",
        "which",
        "from",
        "are",
        "by",
        "if",
        "it",
        "when",
        "not",
        "will",
        "can",
        "you",
        "your",
        "has",
        "have",
        "as",
    )
)
ENOUGH = 0.15
NO_LANGUAGE = "zxx"  # formulas, code


def language(options: Language) -> Judge:
    """Each text is judged alone, by its first characters. Raises ContractError for a language the model does not know."""
    from py3langid.langid import MODEL_FILE, LanguageIdentifier

    model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    unknown = sorted(set(options.allow) - set(model.labels))
    if unknown:
        raise ContractError(f"the language `{unknown[0]}` is not known", where="clean.steps: language.allow", mend="Use ISO 639-1 codes such as en, de, fr.")
    allowed = {*options.allow, NO_LANGUAGE}
    english = "en" in allowed

    def foreign(text: str) -> str:
        """The language that a text surely is in and should not be, or an empty string."""
        if len(text) < options.min_chars:
            return ""
        sample = text[: options.sample]
        if english:
            words = sample.split()
            if sum(map(ENGLISH.__contains__, words)) >= ENOUGH * len(words):
                return ""
        name, confidence = model.classify(sample)
        return name if confidence >= options.min_confidence and name not in allowed else ""

    def judge(texts: Texts) -> tuple[Texts, str]:
        history, instruction, input, output, rejected = texts
        for text in (*history, instruction, input, output, rejected):
            found = foreign(text)
            if found:
                return texts, f"a text is in another language ({found}) than {', '.join(options.allow)}"
        return texts, ""

    return judge
