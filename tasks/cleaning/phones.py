"""Phone numbers: forms that are unmistakable, or digits after a word such as `call`; phonenumbers says whether they can be dialled.

Ungrouped digits alone are no phone number: they are as often a size, a date, an ISBN or 2147483647.
"""

from __future__ import annotations

import re

import phonenumbers
from stdnum import isbn

from flywheel.errors import ContractError
from tasks.cleaning.masking import Mask

GAP = r"[ .()/\u2010-\u2013-]"
CANDIDATE = re.compile(rf"(?<!\w)(?<![\w>][-./,:=])(?:\+|\(\+?)?[0-9](?:{GAP}{{0,2}}[0-9]){{6,16}}(?!\w|[-./,:][\w])")
LAST_GROUP = re.compile(rf"{GAP}+[0-9]+$")
CUE = re.compile(r"\b(?:telephone|phone|tel|mobile|cell|call|fax|whatsapp|signal|sms|text|ring|dial|reach|handy|telefon)\b[^0-9\n]{0,20}$", re.IGNORECASE)
# (212) 555-0187, 212-555-0187, 212.555.0187, 1-212-555-0187: the form of North America, dialled or not.
AMERICAN = re.compile(r"(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}([.-]))[2-9][0-9]{2}(?(1)\1|[ .-])[0-9]{4}")
LOCAL = re.compile(r"[2-9][0-9]{2}[ .-][0-9]{4}")
DATE = re.compile(r"(?:[0-9]{4}([-./])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-./])[0-9]{1,2}\2[0-9]{2,4})(?![0-9])")
GROUPED = re.compile(rf"\(?0[1-9][0-9]*\)?(?:{GAP}+[0-9]{{2,}})+|\([0-9]{{2,5}}\)(?:{GAP}*[0-9]{{2,}})+")


def phone(regions: tuple[str, ...]) -> Mask:
    """A mask for numbers in international form and in these countries' own. Raises ContractError for a country that is none."""
    unknown = sorted(set(regions) - phonenumbers.SUPPORTED_REGIONS)
    if unknown:
        raise ContractError(f"the region `{unknown[0]}` is not known", where="clean.steps: personal.regions", mend="Use ISO 3166 codes such as US, GB, DE.")

    def valid(text: str, region: str | None) -> bool:
        try:
            return phonenumbers.is_valid_number(phonenumbers.parse(text, region))
        except phonenumbers.NumberParseException:
            return False

    def possible(text: str) -> bool:
        try:
            return phonenumbers.is_possible_number(phonenumbers.parse(text, None))
        except phonenumbers.NumberParseException:
            return False

    def is_phone(found: str, cue: bool) -> bool:
        bare = found.lstrip("(")
        if bare.startswith("+"):
            return possible(bare)
        if DATE.match(found) or isbn.is_valid(found):
            return False
        if bare.startswith("00") and valid("+" + bare[2:], None):
            return True
        if AMERICAN.fullmatch(found) or (cue and LOCAL.fullmatch(found)):
            return True
        return bool(cue or GROUPED.fullmatch(found)) and any(valid(found, region) for region in regions)

    def mask(text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            found, cue = match[0], bool(CUE.search(text, max(0, match.start() - 40), match.start()))
            while not is_phone(found, cue):  # another number may have come along behind it
                shorter = LAST_GROUP.sub("", found)
                if shorter == found:
                    return match[0]
                found = shorter
            return "<phone>" + match[0][len(found) :]

        return CANDIDATE.sub(replace, text)

    return mask
