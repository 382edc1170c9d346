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

# Every form opens with the character that is quickest to search for; what may stand before it is looked at only then.
DIGITS = re.compile(r"[0-9](?:[ .()/:\u2010-\u2013-]{0,3}[0-9]){5}")
EMAIL_HINT = re.compile(r"@(?<=[\w.+%-]@)[\w-]{1,63}\.")
EMAIL = re.compile(r"(?<![\w.+%-])(?<!//)(?!git@)[\w.+%-]++@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?!\w)")
# Two letters and two digits, then groups; how many belong to it, the country's length and the checksum say.
IBAN_HINT = re.compile(r"[0-9](?<=[A-Za-z]{2}.)(?<![A-Za-z0-9]...)[0-9](?:[ -]?[A-Za-z0-9]){11}")
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}")
CARD = re.compile(
    r"[0-9](?<!\w.)(?<![0-9][.,/-].)(?:[0-9]{3}([ -]?)[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{1,3})?|[0-9]{3}([ -]?)[0-9]{6}\2[0-9]{4,5})(?!\w|[.,/-][0-9])"
)
ISSUER = re.compile(r"4(?:\d{15}|\d{18})|(?:5[1-5]|2[2-7]|6[045]|35)\d{14}|3[47]\d{13}|3[0689]\d{12}|62\d{14,17}")
IPV4 = re.compile(r"[0-9](?<![\w.-].)(?<![=<>~!]=.)(?<!\w/.)[0-9]{0,2}(?:\.[0-9]{1,3}){3}(?![\w-]|\.\w)")
IPV6 = re.compile(r"[23](?<![\w:.].)[0-9a-fA-F]{3}(?::[0-9a-fA-F]{0,4}){2,7}(?![\w:])")
VERSION = re.compile(r"\b(?:version|ver\.?|release|firmware|revision|rev\.?)\s{0,2}$", re.IGNORECASE)


def personal(options: Personal) -> Judge:
    """Masks with <email>, <phone>, …. Without a model for names, texts without an @ and without six digits in a row are passed on."""
    every: dict[PersonalKind, tuple[str, Mask]] = {
        "email": ("an e-mail address", _email), "iban": ("a bank account (IBAN)", _iban), "card": ("a payment card", _card),
        "ip": ("an IP address", _ip), "phone": ("a phone number", phone(options.regions)),
    }  # fmt: skip
    masks = dict(every[kind] for kind in every if kind in options.kinds)
    if options.names:
        return by_policy("personal", options.policy, masks | {"a name": _names(options)}, bool)
    return by_policy("personal", options.policy, masks, _hint)


def _hint(text: str) -> bool:
    return "@" in text or bool(DIGITS.search(text)) or (":" in text and bool(IPV6.search(text)))


def _email(text: str) -> str:
    return EMAIL.sub("<email>", text) if EMAIL_HINT.search(text) else text


def _iban(text: str) -> str:
    def longest_valid(match: re.Match[str]) -> str:
        found = match[0]
        for end in range(len(found), 14, -1):
            if found[end - 1].isalnum() and not found[end : end + 1].isalnum() and iban.is_valid(found[:end]):
                return "<iban>" + found[end:]
        return found

    return IBAN.sub(longest_valid, text) if IBAN_HINT.search(text) else text


def _card(text: str) -> str:
    def replace(match: re.Match[str]) -> str:
        found = match[0]
        for size in (len(found), found.rfind(match[1] or "-")):  # the last group may be another number
            digits = re.sub("[ -]", "", found[: max(size, 0)])
            if ISSUER.fullmatch(digits) and luhn.is_valid(digits):
                return "<card>" + found[size:]
        return found

    return CARD.sub(replace, text)


def _ip(text: str) -> str:
    def leads_somewhere(match: re.Match[str]) -> bool:
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            return False
        like_a_version = address.version == 4 and (
            sum(part < 10 for part in address.packed) >= 3 or VERSION.search(text, max(0, match.start() - 12), match.start())
        )
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
