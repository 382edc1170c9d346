"""What a correction changes, word by word, as HTML: <del> for what goes, <ins> for what comes."""

from __future__ import annotations

import difflib
import html
import re

LONGEST = 4000  # words: beyond it a comparison takes longer than a click may
ALIKE = 0.5  # below it the two share so little that one after the other reads better than both mixed


def difference(old: str, new: str) -> str:
    """The text with its changes marked; line breaks are kept, everything is escaped."""
    before, after = (re.findall(r"\s+|\w+|[^\w\s]", text) for text in (old, new))
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    if max(len(before), len(after)) > LONGEST or matcher.ratio() < ALIKE:
        return f"<del>{html.escape(old)}</del>\n<ins>{html.escape(new)}</ins>"
    parts = []
    for tag, a, b, c, d in matcher.get_opcodes():
        gone, come = html.escape("".join(before[a:b])), html.escape("".join(after[c:d]))
        if tag == "equal":
            parts.append(gone)
        else:
            parts.append((f"<del>{gone}</del>" if gone else "") + (f"<ins>{come}</ins>" if come else ""))
    return "".join(parts)
