"""Optional signatures of registered versions: Ed25519, with keys from PEM files that the settings name.

openssl genpkey -algorithm ed25519 -out signing.pem;  openssl pkey -in signing.pem -pubout -out verify.pem
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

from flywheel.errors import ContractError
from flywheel.settings import settings


def _read(path: str, private: bool) -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

    where = "FLYWHEEL_SIGNING_KEY" if private else "FLYWHEEL_VERIFY_KEY"
    try:
        data = Path(path).read_bytes()
        key: Any = load_pem_private_key(data, None) if private else load_pem_public_key(data)
    except (OSError, ValueError, TypeError) as error:
        raise ContractError(f"{path} is no readable PEM key ({type(error).__name__})", where=where, mend="Make one as flywheel/signing.py says.") from error
    if not isinstance(key, Ed25519PrivateKey if private else Ed25519PublicKey):
        raise ContractError(f"{path} is no Ed25519 key", where=where, mend="Make one as flywheel/signing.py says.")
    return key


def sign(text: str) -> str:
    """The signature of a text, base64; empty when no key is set."""
    path = settings().signing_key
    return base64.b64encode(_read(path, private=True).sign(text.encode())).decode() if path else ""


def check(text: str, signature: str, where: str) -> None:
    """Raise ContractError unless the signature is the verify key's; without a verify key nothing is asked."""
    from cryptography.exceptions import InvalidSignature

    path = settings().verify_key
    if not path:
        return
    mend = "It was not registered by this installation, or changed since: do not serve it."
    try:
        _read(path, private=False).verify(base64.b64decode(signature, validate=True), text.encode())
    except (InvalidSignature, binascii.Error) as error:
        raise ContractError("the signature is missing or wrong", where=where, mend=mend) from error
