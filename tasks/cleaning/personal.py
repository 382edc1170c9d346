"""Personal data: cheap forms find candidates, python-stdnum, phonenumbers and ipaddress decide.

Of addresses, only those that lead to somebody count: not private, loopback or documentation networks, nor what is written like a version.
"""

from __future__ import annotations

import ipaddress
import re

from stdnum import iban, luhn

from flywheel.config.steps import Personal, PersonalKind
from tasks.cleaning import models
from tasks.cleaning.masking import Mask, by_policy
from tasks.cleaning.phones import phone
from tasks.cleaning.record import Judge

DIGIT = re.compile("[0-9]")
# Something with seven or more digits, or an address of the network, in one piece.
NUMERIC = re.compile(r"[0-9][0-9 .()/:\u2010-\u2013-]{6}|[0-9a-fA-F]:[0-9a-fA-F:]{4}")

EMAIL = re.compile(r"(?<![\w.+%-])(?<!//)(?!git@)[\w.+%-]++@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?!\w)")
# The two letters and two digits, then groups; how many belong to it, the country's length and the checksum say.
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}")
CARD = re.compile(
    r"(?<!\w)(?<![0-9][.,/-])(?:[0-9]{4}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?|3[0-9]{3}([ -]?)[0-9]{6}\2[0-9]{4,5})(?!\w|[.,/-][0-9])"
)
ISSUER = re.compile(r"4(?:\d{15}|\d{18})|(?:5[1-5]|2[2-7]|6[045]|35)\d{14}|3[47]\d{13}|3[0689]\d{12}|62\d{14,17}")
IPV4 = re.compile(r"(?<![\w.-])(?<![=<>~!]=)(?<!\w/)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w-]|\.[0-9])")
IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-fA-F]{3}(?::[0-9a-fA-F]{0,4}){2,7}(?![\w:])")
VERSION = re.compile(r"(?:version|ver\.?|release|section|chapter|build|firmware|revision|rev\.?|§)\s{0,2}$", re.IGNORECASE)


def personal(options: Personal) -> Judge:
    """Masks with <email>, <phone>, …; looks at numbers only where there are enough digits."""
    every: dict[PersonalKind, tuple[str, Mask]] = {
        "email": ("an e-mail address", _email), "iban": ("a bank account (IBAN)", _iban), "card": ("a payment card", _card),
        "ip": ("an IP address", _ip), "phone": ("a phone number", phone(options.regions)),
    }  # fmt: skip
    masks = {what: mask if kind == "email" else _numeric(mask) for kind, (what, mask) in every.items() if kind in options.kinds}
    if options.names:
        masks["a name"] = _names(options)
    return by_policy("personal", options.policy, masks)


def _numeric(mask: Mask) -> Mask:
    return lambda text: mask(text) if DIGIT.search(text) and NUMERIC.search(text) else text


def _email(text: str) -> str:
    return EMAIL.sub("<email>", text) if "@" in text else text


def _iban(text: str) -> str:
    def shortest(match: re.Match[str]) -> str:
        found = match[0]
        for end in range(len(found), 14, -1):
            if found[end - 1].isalnum() and not found[end : end + 1].isalnum() and iban.is_valid(found[:end]):
                return "<iban>" + found[end:]
        return found

    return IBAN.sub(shortest, text)


def _card(text: str) -> str:
    def is_card(match: re.Match[str]) -> bool:
        digits = re.sub("[ -]", "", match[0])
        return bool(ISSUER.fullmatch(digits)) and luhn.is_valid(digits)

    return CARD.sub(lambda m: "<card>" if is_card(m) else m[0], text)


def _ip(text: str) -> str:
    def leads_somewhere(match: re.Match[str]) -> bool:
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            return False
        like_a_version = address.version == 4 and (max(address.packed) < 10 or VERSION.search(text, max(0, match.start() - 12), match.start()))
        return address.is_global and not address.is_multicast and not like_a_version

    for form in (IPV4, IPV6):
        text = form.sub(lambda m: "<ip>" if leads_somewhere(m) else m[0], text)
    return text


def _names(options: Personal) -> Mask:
    spans = models.names(options.names, options.min_name_score)
    placeholder = re.compile(r"<[a-z]+>")

    def mask(text: str) -> str:
        taken = [m.span() for m in placeholder.finditer(text)]
        for start, end in sorted(spans(text), reverse=True):
            if not any(start < b and a < end for a, b in taken):
                text = f"{text[:start]}<name>{text[end:]}"
        return text

    return mask
