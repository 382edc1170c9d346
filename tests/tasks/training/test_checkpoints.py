import shutil
from types import SimpleNamespace

import pytest

from flywheel import store
from flywheel.errors import TransientError
from tasks.training.checkpoints import Checkpoints


def kept(tmp_path, keep=2):
    return Checkpoints(str(tmp_path / "c"), 0, keep)


def test_the_newest_are_kept_and_one_that_was_cut_off_is_passed_over(tmp_path, home):
    checkpoints = kept(tmp_path)
    for step in (3, 9, 12):
        checkpoints.save({"step": step, "losses": [], "parameters": {}})
    assert [int(name.split("-")[1]) for name in checkpoints.names()] == [12, 9]
    newest = tmp_path / "c" / checkpoints.names()[0]
    newest.write_bytes(newest.read_bytes()[:-100])
    (tmp_path / "c" / ".step-00000015-x.pt.tmp").write_bytes(b"a save that was killed")
    said = []
    assert checkpoints.load(said.append)["step"] == 9 and "cut off: passed over" in said[0]
    assert kept(tmp_path / "other").load(said.append) is None


def test_checkpoints_go_to_an_object_store(home):
    checkpoints = Checkpoints("memory://bucket/run/checkpoints", 0, 1)
    checkpoints.save({"step": 1, "losses": [{"loss": 2.0}], "parameters": {}})
    checkpoints.save({"step": 2, "losses": [], "parameters": {}})
    assert checkpoints.load(print)["step"] == 2 and len(checkpoints.names()) == 1


def test_no_space_is_said_before_training(tmp_path, home, monkeypatch):
    kept(tmp_path).check_space(1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    with pytest.raises(TransientError, match="3 checkpoints need"):
        kept(tmp_path).check_space(1000)


def test_a_failed_write_leaves_the_one_before(tmp_path, home, monkeypatch):
    checkpoints = kept(tmp_path)
    checkpoints.save({"step": 1, "losses": [], "parameters": {}})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "replace", full)
    with pytest.raises(OSError):
        checkpoints.save({"step": 2, "losses": [], "parameters": {}})
    assert checkpoints.load(print)["step"] == 1
