"""Signatures of registered versions, and the renewal of the key."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from flywheel import signing
from flywheel.errors import ContractError
from flywheel.settings import settings


@pytest.fixture
def keys(home, tmp_path, monkeypatch):
    """Files old.pem, new.pem with private keys, old.pub, new.pub with public ones; a function that chooses."""
    for name in ("old", "new"):
        key = Ed25519PrivateKey.generate()
        (tmp_path / f"{name}.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        (tmp_path / f"{name}.pub").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))

    def choose(private: str, *public: str) -> None:
        (tmp_path / "verify.pem").write_bytes(b"\n".join((tmp_path / f"{name}.pub").read_bytes() for name in public))
        monkeypatch.setenv("FLYWHEEL_SIGNING_KEY", str(tmp_path / f"{private}.pem"))
        monkeypatch.setenv("FLYWHEEL_VERIFY_KEY", str(tmp_path / "verify.pem") if public else "")
        settings.cache_clear()

    return choose


def test_a_changed_text_and_a_missing_signature_are_refused(keys):
    keys("old", "old")
    signature = signing.sign("version 3")
    signing.check("version 3", signature, "version 3")
    for text, given in (("version 4", signature), ("version 3", ""), ("version 3", "no base64!"), ("version 3", signature[:-8] + "AAAAAA==")):
        with pytest.raises(ContractError, match=r"version 3: the signature is missing or wrong"):
            signing.check(text, given, "version 3")


def test_while_a_key_is_renewed_both_signatures_load(keys):
    keys("old", "old")
    before = signing.sign("version 3")
    keys("new", "old", "new")
    signing.check("version 3", before, "3")
    signing.check("version 4", signing.sign("version 4"), "4")
    keys("new", "new")
    signing.check("version 4", signing.sign("version 4"), "4")
    with pytest.raises(ContractError, match="missing or wrong"):
        signing.check("version 3", before, "3")


def test_a_file_that_is_no_key_is_named(keys, tmp_path):
    keys("old", "old")
    other = X25519PrivateKey.generate().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    for content, what in ((b"", "no Ed25519 key"), (b"words", "no readable PEM key"), (other, "no Ed25519 key"), (b"-----BEGIN\n", "no readable")):
        (tmp_path / "verify.pem").write_bytes(content)
        with pytest.raises(ContractError, match=f"FLYWHEEL_VERIFY_KEY: .*verify.pem is {what}"):
            signing.check("text", "c2ln", "3")


def test_without_keys_nothing_is_signed_or_asked(home):
    assert signing.sign("text") == ""
    signing.check("text", "", "3")
