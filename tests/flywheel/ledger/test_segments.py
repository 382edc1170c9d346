"""Segments of a real ledger: complete, once, and mended."""

import json
from concurrent.futures import ThreadPoolExecutor

import pytest

from flywheel import ledger, store
from flywheel.ledger import segments
from flywheel.settings import settings
from tests.flywheel.ledger.conftest import give, sealed_lines


def test_sealing_is_complete_and_survives_a_death_in_the_middle(database, monkeypatch):
    for number in range(5):
        give(number)
    with monkeypatch.context() as patch:
        patch.setattr(store, "write_bytes", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OSError, match="No space"):
            ledger.seal_segments()
    give(5)
    ledger.seal_segments()
    assert ledger.seal_segments() == []
    assert sorted(line["prompt"] for line in sealed_lines()) == [f"question {n}" for n in range(6)]


def test_sealing_from_two_servers_at_once(database, monkeypatch):
    monkeypatch.setattr(segments, "ROWS", 7)
    for number in range(20):
        give(number, comment="héllo" if number else None)
    with ThreadPoolExecutor(4) as servers:
        names = [name for written in servers.map(lambda _: ledger.seal_segments(), range(8)) for name in written]
    assert len(names) == len(set(names)) == 3
    lines = sealed_lines()
    assert len({line["id"] for line in lines}) == len(lines) == 20
    assert {"timestamp", "prompt", "response", "feedback", "comment"} <= set(lines[0])


def test_what_is_cut_lost_doubled_or_renamed_is_said_and_mended(database, home):
    for number in range(4):
        give(number)
        ledger.seal_segments()
    folder = home / "store" / ledger.SEGMENTS
    cut, lost, renamed, _whole = sorted(folder.iterdir())
    before = sorted(line["id"] for line in sealed_lines())
    cut.write_bytes(cut.read_bytes()[:50])
    lost.unlink()
    (folder / "copy.jsonl").write_bytes(renamed.read_bytes())
    said = ledger.check_segments([*store.list_names(store.join(settings().store, ledger.SEGMENTS)), lost.name])
    assert len(said) == 3
    assert [s for s in said if "copy.jsonl is not a segment" in s] and sum("written again" in s for s in said) == 2
    (folder / "copy.jsonl").unlink()
    assert sorted(line["id"] for line in sealed_lines()) == before
    assert ledger.check_segments(p.name for p in folder.iterdir()) == []
    assert json.loads(cut.read_text())["prompt"] == "question 0"
