import random

from tasks.sources import sorting


def test_more_than_memory_holds_comes_out_sorted_and_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(sorting, "RUN_BYTES", 1000)
    monkeypatch.setattr(sorting, "MOST_RUNS", 4)
    dice = random.Random(1)
    lines = [b"%d\n" % dice.randrange(500) for _ in range(2000)]
    sorter = sorting.Sorter(tmp_path)
    for line in lines:
        sorter.add(line)
    assert list(sorter) == sorted(lines)
    assert list(sorter) == sorted(lines), "it can be read twice"
    assert len(sorter._runs) < 4
    assert list(tmp_path.iterdir()) == [], "what it writes has no name"
