"""What of prompts and answers may stand in log lines: nothing, or with personal data masked (FLYWHEEL_SERVING_LOG_PROMPTS).

Masks what has a form: addresses of mail, web addresses, IP addresses, and runs of digits as in telephone, card and account numbers.
Names have none: who must not log those logs nothing.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from serving.settings import serving

if TYPE_CHECKING:
    from serving.answering import Answer

log = logging.getLogger("flywheel.serving.answers")
FORMS = {
    "EMAIL": re.compile(r"[\w.+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})+"),
    "URL": re.compile(r"\bhttps?://[^\s<>\"')]{1,2000}"),
    "IP": re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b"),
    "IBAN": re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?\b"),
    "NUMBER": re.compile(r"(?<!\w)\+?\d(?:[\d ().-]{5,20})\d(?!\w)"),
}
MOST = 500  # characters of each text in a line


def masked(text: str) -> str:
    """The text with what looks like personal data replaced by what it is."""
    for name, form in FORMS.items():
        text = form.sub(f"[{name}]", text)
    return text


def log_answer(question: str, answer: Answer) -> None:
    """A line about an answer, with its texts if the policy wants them."""
    if serving().log_prompts == "masked":
        log.info("answer %s by version %s: %r -> %r", answer.id, answer.version, masked(question)[:MOST], masked(answer.text)[:MOST])
