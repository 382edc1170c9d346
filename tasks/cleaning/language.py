"""In which language a text is written: py3langid, asked only where common English words do not answer."""

from __future__ import annotations

from flywheel.config.steps import Language
from flywheel.errors import ContractError
from tasks.cleaning.record import Judge, Texts
from tasks.cleaning.words import words

# Words that are frequent in English and in no other language (so without `in` and `is`): nowhere else are they so many of a text's different words.
ENGLISH = frozenset(
    (
        "the", "and", "of", "to", "for", "with", "that", "this", "which", "from", "are", "be", "by", "if", "it", "or", "when", "not",
        "can", "you", "your", "has", "have", "were", "but", "any", "one", "its", "other", "than", "there", "may", "must", "should", "would", "they",
        "their", "only", "used", "into", "then", "does", "what", "how", "why",
    )
)  # fmt: skip
ENOUGH = 0.1
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
        if english:
            there = words(text)
            if len(ENGLISH & there) >= ENOUGH * len(there):
                return ""
        name, confidence = model.classify(text[: options.sample])
        return name if confidence >= options.min_confidence and name not in allowed else ""

    def judge(texts: Texts) -> tuple[Texts, str]:
        history, instruction, input, output, rejected = texts
        for text in (*history, instruction, input, output, rejected):
            found = foreign(text)
            if found:
                return texts, f"a text is in another language ({found}) than {', '.join(options.allow)}"
        return texts, ""

    return judge
