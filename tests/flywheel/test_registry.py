"""On a real MLflow server and a real PostgreSQL."""

import uuid

import pytest

from flywheel import ledger, registry
from flywheel.errors import ContractError, TransientError
from flywheel.registry import TAG
from flywheel.settings import settings


def test_promote_roll_back_and_start_from_the_right_version(register):
    assert registry.champion() is None and registry.versions() == [] and registry.parent_for("d1") is None
    one = register("one", "d1")
    registry.promote(one, "test", "better")
    assert registry.parent_for("d2").version == one
    assert registry.parent_for("d1") is None  # learned before: it starts where it did then
    two = register("two", "d2", parent=one, reference=one)
    bad = register("bad", "d3", verdict="refuse", parent=one)
    registry.promote(two, "test", "better still")
    assert registry.champion().version == two and registry.alias("previous") == one
    assert registry.reference_for(registry.get(two).adapter.sha256).version == one
    assert registry.rollback("test", "it misbehaves") == one
    assert registry.champion().version == one
    with pytest.raises(ContractError, match="refused by the gate"):
        registry.rollback("test", "x", bad)
    with pytest.raises(ContractError, match="no such version"):
        registry.rollback("test", "x", 99)
    assert [e["action"] for e in ledger.list_events()] == ["promote"] * 3


def test_tampered_packages_are_refused_with_the_files_name(register, tmp_path):
    register("one", "d1")
    two = register("two", "d2")

    def changed(change):
        """Fetch into a new cache what a tamperer left."""
        cache = tmp_path / uuid.uuid4().hex
        folder = registry.fetch(registry.get(two), cache).parent
        change(folder)
        return cache

    def refused(change, name):
        with pytest.raises(ContractError, match=name):
            registry.fetch(registry.get(two), changed(change))

    def flip(folder):
        data = bytearray((folder / "adapter" / "weights").read_bytes())
        data[0] ^= 1
        (folder / "adapter" / "weights").write_bytes(data)

    def older(folder):
        (folder / "SHA256SUMS").write_text("sums of one")

    assert (registry.fetch(registry.get(two), tmp_path / "cache") / "weights").read_text() == "two"
    refused(flip, "adapter/weights")
    refused(lambda folder: (folder / "adapter" / "weights").unlink(), "adapter/weights")
    refused(older, "SHA256SUMS")
    refused(lambda folder: (folder / "adapter" / "more").write_text("x"), "adapter/more")


def test_what_mlflow_holds_is_verified_too(register, tmp_path):
    number = register("one", "d1")
    client = registry.client()
    run = client.get_model_version(settings().model_name, str(number)).run_id
    (tmp_path / "weights").write_text("evil")
    client.log_artifact(run, str(tmp_path / "weights"), "model/adapter")
    with pytest.raises(ContractError, match="adapter/weights"):
        registry.fetch(registry.get(number), tmp_path / "cache")


def test_a_promotion_that_died_before_its_event_is_told_once(register, monkeypatch):
    one, two = register("one", "d1"), register("two", "d2")
    registry.promote(one, "test", "better")
    record = ledger.record_event
    monkeypatch.setattr(ledger, "record_event", lambda *a, **k: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        registry.promote(two, "test", "better still")
    monkeypatch.setattr(ledger, "record_event", record)
    assert registry.alias("champion") == two
    for _ in range(2):
        registry.promote(two, "test", "better still")
    assert [(e["detail"]["version"], e["detail"]["before"]) for e in ledger.list_events()] == [(two, one), (one, None)]
    assert (registry.alias("champion"), registry.alias("previous")) == (two, one)


def test_signatures(home, tmp_path, monkeypatch, register):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    unsigned = register("unsigned", "d0")
    key = Ed25519PrivateKey.generate()
    (tmp_path / "private.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "public.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    monkeypatch.setenv("FLYWHEEL_SIGNING_KEY", str(tmp_path / "private.pem"))
    monkeypatch.setenv("FLYWHEEL_VERIFY_KEY", str(tmp_path / "public.pem"))
    settings.cache_clear()
    signed = registry.get(register("signed", "d1"))
    registry.fetch(signed, tmp_path / "cache")
    with pytest.raises(ContractError, match="signature"):
        registry.fetch(registry.get(unsigned), tmp_path / "cache")
    with pytest.raises(ContractError, match="signature"):
        registry.fetch(signed.model_copy(update={"verdict": "refuse"}), tmp_path / "cache")
    monkeypatch.setenv("FLYWHEEL_VERIFY_KEY", str(tmp_path / "private.pem"))
    settings.cache_clear()
    with pytest.raises(ContractError, match="FLYWHEEL_VERIFY_KEY"):
        registry.fetch(signed, tmp_path / "cache")


def test_a_tag_that_cannot_be_read_names_its_version(register):
    number = register("one", "d1")
    registry.client().set_model_version_tag(settings().model_name, str(number), TAG, '{"base": "b"}')
    with pytest.raises(ContractError, match=r"version 1: its tag `flywheel` cannot be read \(`prompt`\)"):
        registry.versions()


def test_a_dead_registry_is_transient(home, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_MLFLOW_URL", "http://127.0.0.1:1")
    settings.cache_clear()
    with pytest.raises(TransientError, match="make status"):
        registry.champion()
