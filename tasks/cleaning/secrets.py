"""Secrets: what would open a door to whoever reads it in a model's answer. Each has a mark by which most texts are passed over at once."""

from __future__ import annotations

import re
from itertools import pairwise

from flywheel.config.steps import Secrets
from tasks.cleaning.masking import Mask, by_policy
from tasks.cleaning.record import Judge

PLACEHOLDER = "<secret>"
# No quantifier is inside another that could share its text.
TOKEN = re.compile(
    r"(?<![A-Za-z0-9_])(?:"
    + "|".join(
        (
            r"A(?:KIA|SIA|BIA|CCA)[A-Z2-7]{16}",  # AWS
            r"AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{20,}+",  # Google
            r"gh[pousr]_[A-Za-z0-9]{36,}+|github_pat_\w{40,}+",  # GitHub
            r"glpat-[\w-]{20,}+",  # GitLab
            r"(?:xox[abeoprs]|xapp)-[A-Za-z0-9-]{10,}+|hooks\.slack\.com/services/[A-Za-z0-9/]{20,}+",  # Slack
            r"[srp]k_(?:live|test)_[A-Za-z0-9]{16,}+|whsec_[A-Za-z0-9+/=]{16,}+",  # Stripe
            r"hf_[A-Za-z0-9]{30,}+",  # Hugging Face
            r"npm_[A-Za-z0-9]{36}|pypi-AgE[\w-]{50,}+",
            r"SG\.[\w-]{16,64}\.[\w-]{16,64}",  # SendGrid
            r"dop_v1_[0-9a-f]{64}",  # DigitalOcean
            r"AccountKey=[A-Za-z0-9+/]{80,}+={0,2}",  # Azure
            r"eyJ[\w-]{8,}+\.eyJ[\w-]{8,}+\.[\w-]{8,}+",  # JWT
        )
    )
    + r")(?![A-Za-z0-9])"
)
# In every text in which TOKEN, BLOCK or BEARER finds something. Searched by five rare characters, each with what stands around it.
MARK = re.compile(
    r"_(?:(?<=gh[pousr]_)|(?<=_pat_)|(?<=_live_)|(?<=_test_)|(?<=whsec_)|(?<=hf_)|(?<=npm_)|(?<=_v1_))|"
    r"-(?:(?<=sk-)|(?<=xox[a-z]-)|(?<=xapp-)|(?<=glpat-)|(?<=pypi-)|(?<=SPX-)|(?<=KEY-)|(?<=BLOCK-))|"
    r"\.(?:(?<=SG\.)|(?<=ya29\.)|(?<=hooks\.))|"
    r"A(?:KIA|SIA|BIA|CCA|Iza|ccountKey)|"
    r"J(?<=eyJ)"
)
BLOCK = re.compile(
    r"-----BEGIN (?:[A-Z0-9]{1,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----((?:[A-Za-z0-9+/=\s,:.\\()]|-(?!--))*+)(?:-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----)?"
)
MIN_BLOCK = 64  # characters between the lines; less is an example of the form
URL = re.compile(r"(://[^\s/:@]{0,100}:)([^\s/@<>{}$*]{1,200})@")
BEARER = re.compile(r"(\b[Bb]earer\s{1,3}|\bsk-)([\w.~+/-]{20,}+={0,2})")
ASSIGNED = re.compile(r"([:=](?<![:=].)[:=]?>?\s{0,3}[\"'`]?)([\w+/.~-]{16,}+={0,2}+(?!\w))")
NAME = re.compile(r"(?:key|token|secret|passw|pwd|credential|auth)[\w.-]{0,20}[\"'`\]]{0,2}\s{0,3}$", re.IGNORECASE)
EXAMPLES = frozenset(("password", "passwd", "passwort", "pass", "pwd", "pw", "secret", "token", "key", "xxx", "xxxx", "...", "…", "port"))
RANDOM = 0.3  # changes between upper case, lower case and digits, a character: words and names have fewer, random text twice as many


def secrets(options: Secrets) -> Judge:
    """Masks with <secret>: of a URL, the password alone."""
    masks: dict[str, Mask] = {
        "a private key": _block, "an access key or token": _token, "a password in a URL": _url, "a random string that is assigned to a secret's name": _assigned,
    }  # fmt: skip
    return by_policy("secrets", options.policy, masks, _hint)


def _hint(text: str) -> bool:
    if "earer " in text or MARK.search(text):
        return True
    return ("=" in text or ":" in text) and (bool(ASSIGNED.search(text)) or ("://" in text and "@" in text))


def _block(text: str) -> str:
    if "PRIVATE KEY" not in text:
        return text
    return BLOCK.sub(lambda m: PLACEHOLDER if len(m[1]) >= MIN_BLOCK else m[0], text)


def _token(text: str) -> str:
    if not MARK.search(text) and "earer " not in text:
        return text
    text = TOKEN.sub(PLACEHOLDER, text)
    if "earer" in text or "sk-" in text:
        text = BEARER.sub(lambda m: m[1] * (m[1] != "sk-") + PLACEHOLDER if random(m[2]) else m[0], text)
    return text


def _url(text: str) -> str:
    if "://" not in text or "@" not in text:
        return text
    return URL.sub(lambda m: m[0] if m[2].lower() in EXAMPLES else f"{m[1]}{PLACEHOLDER}@", text)


def _assigned(text: str) -> str:
    if "=" not in text and ":" not in text:
        return text
    return ASSIGNED.sub(lambda m: m[1] + PLACEHOLDER if NAME.search(text, max(0, m.start() - 45), m.start()) and random(m[2]) else m[0], text)


def random(value: str) -> bool:
    """Whether a string was drawn, not written: it has digits and letters, and changes between kinds of character often."""
    kinds = [1 if c.isdigit() else 2 if c.isupper() else 3 for c in value if c.isalnum()]
    return 1 in kinds and len(set(kinds)) > 1 and sum(a != b for a, b in pairwise(kinds)) >= RANDOM * len(value)
