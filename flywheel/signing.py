"""Optional signatures of registered versions: Ed25519, with keys from PEM files that the settings name.

openssl genpkey -algorithm ed25519 -out signing.pem;  openssl pkey -in signing.pem -pubout -out verify.pem

The file of the verify key may hold several, one below the other: while a key is renewed, what the old one signed must still load.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from flywheel.errors import ContractError
from flywheel.settings import settings

END = b"-----END PUBLIC KEY-----\n"


def _private() -> Any:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    return _read(settings().signing_key, "FLYWHEEL_SIGNING_KEY", Ed25519PrivateKey, lambda data: [load_pem_private_key(data, None)])[0]


def _public() -> list[Any]:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    def each(data: bytes) -> list[Any]:
        blocks = [block for block in (data.rstrip() + b"\n").split(END) if block.strip()]
        return [load_pem_public_key(block.lstrip() + END) for block in blocks]

    return _read(settings().verify_key, "FLYWHEEL_VERIFY_KEY", Ed25519PublicKey, each)


def _read(path: str, where: str, kind: type, load: Callable[[bytes], list[Any]]) -> list[Any]:
    try:
        keys = load(Path(path).read_bytes())
    except (OSError, ValueError, TypeError) as error:
        raise ContractError(f"{path} is no readable PEM key ({type(error).__name__})", where=where, mend="Make one as flywheel/signing.py says.") from error
    if not keys or not all(isinstance(key, kind) for key in keys):
        raise ContractError(f"{path} is no Ed25519 key", where=where, mend="Make one as flywheel/signing.py says.")
    return keys


def sign(text: str) -> str:
    """The signature of a text, base64; empty when no key is set."""
    return base64.b64encode(_private().sign(text.encode())).decode() if settings().signing_key else ""


def check(text: str, signature: str, where: str) -> None:
    """Raise ContractError unless the signature is one of the verify keys'; without a verify key nothing is asked."""
    from cryptography.exceptions import InvalidSignature

    if not settings().verify_key:
        return
    for key in _public():
        with suppress(InvalidSignature, binascii.Error):
            key.verify(base64.b64decode(signature, validate=True), text.encode())
            return
    raise ContractError("the signature is missing or wrong", where=where, mend="It was not registered by this installation, or changed since: do not serve it.")
