import pytest

from flywheel import manifest, store
from flywheel.errors import ContractError


@pytest.fixture(params=["folder", "s3"])
def root(request, tmp_path):
    return str(tmp_path / "a store") if request.param == "folder" else request.getfixturevalue("bucket")


def test_write_read_list_glob(root):
    store.write_bytes(store.join(root, "a", "one.json"), b"1")
    store.write_bytes(store.join(root, "a", "two.json"), b"2")
    store.write_bytes(store.join(root, "a", "two.json"), b"22")
    assert store.read_bytes(store.join(root, "a", "two.json")) == b"22"
    assert store.list_names(store.join(root, "a")) == ["one.json", "two.json"]
    assert store.list_names(store.join(root, "none")) == []
    assert [uri.rsplit("/", 1)[1] for uri in store.glob(store.join(root, "a", "*.json"))] == ["one.json", "two.json"]
    assert store.exists(store.join(root, "a", "one.json")) and not store.exists(store.join(root, "b"))


def test_folders_travel_and_are_verified(root, tmp_path, home):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "weights").write_bytes(b"w" * 100)
    uri = store.join(root, "runs", "adapter")
    store.upload(folder, uri)
    artifact = manifest.describe(folder, uri)
    assert (artifact.fetch(tmp_path / "cache") / "weights").read_bytes() == b"w" * 100
    store.write_bytes(store.join(uri, "weights"), b"v" * 100)
    with pytest.raises(ContractError, match="weights"):
        artifact.fetch(tmp_path / "cache2")


def test_a_failed_write_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        store.write_bytes(str(tmp_path / "x"), b"1")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_address():
    with pytest.raises(ContractError, match="s3://"):
        store.read_bytes("nonsense://x/y")


def test_a_store_without_credentials_is_a_sentence(home, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(ContractError, match=r"no right to use the object store .*Give this process the store's credentials"):
        store.exists("s3://a-bucket-of-nobody/flywheel")
