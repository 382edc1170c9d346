"""Retrieved text is somebody's words, never an instruction: what tries to steer the model is taken out before it is shown to it.

Three things are neutralised: marks that a chat template or this prompt gives a meaning, characters nobody sees, and sentences that address
the model instead of its reader. The passage in the index stays as it is, so citations keep their offsets.
"""

from __future__ import annotations

import re
import unicodedata

REMOVED = "[removed: it gives instructions to the reader's assistant]"
# <|im_start|>, [INST], <<SYS>>, </s>, "### Response:", and our own headings of passages
_MARKS = re.compile(r"<\|[^|>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|</?s>|^\s*#{2,}\s*(instruction|input|response|system)\s*:", re.IGNORECASE | re.MULTILINE)
_NUMBER = re.compile(r"^\s*\[\d+\]", re.MULTILINE)
_STEERING = re.compile(
    r"""\b(
      (ignore|disregard|forget|override|bypass)\s (all\ |any\ |of\ |the\ |your\ |my\ |these\ |everything\ |previous\ |prior\ |above\ |earlier\ |system\ )+
      (instructions?|prompts?|guidelines?|directions?|context|above|before|told)\b
    | (you\ are\ now|from\ now\ on,?\ you|pretend\ (to\ be|that\ you)|you\ must\ now)\b
    | ^(please\ )?act\ as\b
    | (new|updated|real|actual)\ (system\ )?instructions?\s*:
    | (reveal|print|repeat|show|leak|output)\b .{0,30}\b(system\ prompt|hidden\ prompt|your\ (instructions|prompt|rules))\b
    | do\ not\ (tell|mention\ to|reveal\ to|inform)\ the\ user
    | ^(system|assistant)\s*:
    )""",
    re.IGNORECASE | re.VERBOSE,
)
_SENTENCE = re.compile(r"[^.!?\n]*(?:[.!?]+|\n|$)")


def neutralise(text: str) -> tuple[str, int]:
    """A passage as it may be shown to a model, and how many pieces were taken out of it."""
    seen = unicodedata.normalize("NFKC", "".join(c for c in text if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cn")))
    seen, marks = _MARKS.subn(" ", seen)
    seen = _NUMBER.sub(lambda m: m[0].replace("[", "(").replace("]", ")"), seen)
    parts, removed = [], 0
    for sentence in _SENTENCE.findall(seen):
        if _STEERING.search(sentence.strip()):
            removed += 1
            parts.append(REMOVED + ("\n" if sentence.endswith("\n") else " "))
        else:
            parts.append(sentence)
    return "".join(parts).strip(), marks + removed
