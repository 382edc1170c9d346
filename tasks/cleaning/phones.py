"""Phone numbers: forms that are unmistakable, or digits after a word such as `call`; phonenumbers says whether they can be dialled.

Ungrouped digits alone are no phone number: they are as often a size, a date, an ISBN or 2147483647.
"""

from __future__ import annotations

import re

import phonenumbers
from stdnum import isbn

from flywheel.errors import ContractError
from tasks.cleaning.masking import Mask

DASH = "\u2010-\u2013-"  # hyphens and the en dash
CANDIDATE = re.compile(
    rf"[0-9+(](?<![\w+].)(?<![0-9>][./,:-].)(?<!\w/.)(?<![A-Za-z]-.)(?:(?<=[0-9])|(?<=[+(])[0-9]|(?<=\()\+[0-9])(?:[ .()/{DASH}]{{0,3}}[0-9]){{6,16}}(?!\w|[./,:-]\w)"
)
LAST_GROUP = re.compile(r" [^0-9]*[0-9]+$")
CUE = re.compile(
    r"\b(?:telephone|phone|tel|mobile|cell|call|fax|whatsapp|signal|sms|text|ring|dial|reach|handy|telefon|number is)\b"
    r"(?:\W{1,3}(?:me|us|him|her|them|at|on|is|no|nr|number|to|my|or|the)\b){0,3}\W{0,4}$",
    re.IGNORECASE,
)
# 555-0187, after such a word.
LOCAL = re.compile(r"[2-9][0-9]{2}[ .-][0-9]{4}")
# (415) 555-0187, 415.555.0187, 1-415-555-0187: the form of North America, dialled or not.
AMERICAN = re.compile(r"(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}([.-]))[2-9][0-9]{2}(?(1)\1|[ .-])[0-9]{4}")
# 020 7946 0958, (030) 12 34 56 78, 0171/1234567, (11) 91234-5678: a trunk zero or an area code in brackets, then groups; 9 digits or more.
GROUPED = re.compile(
    r"(?=(?:[^0-9]?[^0-9]?[^0-9]?[0-9]){9})"
    rf"(?:\(0[1-9][0-9]{{0,4}}\) ?|0[1-9][0-9]{{0,5}}[ ./{DASH}]{{1,3}}|\([1-9][0-9]{{1,4}}\) ?(?=[0-9]{{4,5}}[ -]))"
    rf"[0-9]{{2,}}(?:[ .{DASH}][0-9]{{2,}})*"
)
SPACED = re.compile(rf"[0-9][ ().{DASH}]{{1,2}}[0-9]{{2,}}")
DATE = re.compile(r"(?:[0-9]{4}([-./])[0-9]{1,2}\1[0-9]{1,2}|[0-9]{1,2}([-./])[0-9]{1,2}\2[0-9]{2,4})(?!\.?[0-9])")
BOOK = re.compile(r"\bISBN\W{0,3}(?:1[03])?\W{0,3}$", re.IGNORECASE)
ONE_DIGIT = re.compile(r"[^0-9][0-9]$")


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
        if ONE_DIGIT.search(found) or not 7 <= sum(map(str.isdigit, found)) <= (17 if bare.startswith(("+", "00")) else 12):
            return False
        if bare.startswith("+"):
            return valid(bare, None) or (bool(SPACED.search(bare)) and possible(bare))
        if bare.startswith("00") and valid("+" + bare[2:], None):
            return True
        if AMERICAN.fullmatch(found) or (cue and LOCAL.fullmatch(found)):
            return True
        return bool(cue or GROUPED.fullmatch(found)) and any(valid(found, region) for region in regions)

    def mask(text: str) -> str:
        def replace(match: re.Match[str]) -> str:
            whole, start = match[0], match.start()
            lead = "(" if whole[0] == "(" and whole.count("(") > whole.count(")") else ""  # the bracket is the sentence's
            found, before = whole[len(lead) :], text[max(0, start - 40) : start]
            if DATE.match(found) or BOOK.search(before) or isbn.isbn_type(found) == "ISBN13":
                return whole
            cue = bool(CUE.search(before))
            while not is_phone(found, cue):  # another number may have come along behind it
                shorter = LAST_GROUP.sub("", found)
                if shorter == found:
                    return whole
                found = shorter
            return f"{lead}<phone>{whole[len(lead + found) :]}"

        return CANDIDATE.sub(replace, text)

    return mask
