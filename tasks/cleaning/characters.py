"""Characters: text that was decoded wrongly, and what nobody sees. ASCII text, nearly all there is, is passed on after one look."""

from __future__ import annotations

import re
import unicodedata

from flywheel.config.steps import Encoding, Unicode
from tasks.cleaning.record import Judge, Texts, edited

LINE_END = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
TRAILING = re.compile(r"(?<![ \t])[ \t]++(?=\n)")
BLANK = re.compile(r"\n{4,}")
# Letters and marks that are drawn as nothing: combining grapheme joiner, Hangul fillers.
UNSEEN = "\u034f\u3164\uffa0"
# A joiner is content inside an emoji or a script that shapes its letters; beside a Latin letter it hides a word from a filter.
JOINERS = "\u200c\u200d"
IDLE_JOINER = re.compile(rf"(?<![^\0-\u036f{JOINERS}])[{JOINERS}]|[{JOINERS}](?![^\0-\u036f{JOINERS}])")


def encoding(_: Encoding) -> Judge:
    """Mojibake is mended until nothing is left to mend, also once `unicode` has taken away what hid it."""
    import ftfy

    only = ftfy.TextFixerConfig(
        unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False, uncurl_quotes=False,
        fix_line_breaks=False, remove_control_chars=False, normalization=None,
    )  # fmt: skip

    def edit(text: str) -> str:
        while not text.isascii():
            mended = ftfy.fix_text(text, only)
            later = tidy(mended)
            again = ftfy.fix_text(later, only)
            if mended == text and again == later:
                break
            text = mended if again == later else again
        return text

    return lambda texts: (edited(texts, edit), "")


def unicode(_: Unicode) -> Judge:
    """Every text is tidied; a preference whose worse answer held nothing visible is none."""

    def judge(texts: Texts) -> tuple[Texts, str]:
        tidied = edited(texts, tidy)
        return tidied, "the worse answer has no visible character" if texts.rejected and not tidied.rejected else ""

    return judge


def tidy(text: str) -> str:
    """NFC, one kind of space and line end, at most two blank lines, nothing invisible, no space at the ends. Idempotent."""
    if text.isascii() and text.isprintable():
        return text.strip()
    text = LINE_END.sub("\n", text)
    strange = [c for c in set(text) if c in UNSEEN or not (c.isprintable() or c in "\n\t" or c in JOINERS)]
    if strange:
        text = text.translate({ord(c): " " if unicodedata.category(c) == "Zs" else None for c in strange})
    if not text.isascii():
        text = unicodedata.normalize("NFC", IDLE_JOINER.sub("", unicodedata.normalize("NFC", text)))
    return BLANK.sub("\n\n\n", TRAILING.sub("", text)).strip()
