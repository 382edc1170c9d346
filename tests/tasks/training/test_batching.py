from flywheel.config import Train
from tasks.training import batching
from tasks.training.rows import Row
from tests.tasks.training.conftest import rows


def test_plan_covers_every_row_once_an_epoch():
    batches = batching.plan(rows(101), Train(batch_size=8, epochs=2), 1)
    assert sorted(r.id for batch in batches for r in batch) == sorted([r.id for r in rows(101)] * 2)
    assert batches == batching.plan(rows(101), Train(batch_size=8, epochs=2), 1)
    assert batches != batching.plan(rows(101), Train(batch_size=8, epochs=2), 2)


def test_groups_of_like_length_waste_little():
    def padding(batches):
        return 1 - sum(len(r.tokens) for b in batches for r in b) / sum(len(b) * max(len(r.tokens) for r in b) for b in batches)

    data = rows(800)
    assert padding(batching.plan(data, Train(batch_size=8), 1)) < 0.05 < padding([data[i : i + 8] for i in range(0, 800, 8)])


def test_passes_hold_no_more_than_they_may():
    batch = [Row(str(i), [1] * size, 1, False) for i, size in enumerate((5, 30, 7, 8, 40, 6))]
    for packed, cost in ((False, lambda p: len(p) * max(len(r.tokens) for r in p)), (True, lambda p: sum(len(r.tokens) for r in p))):
        cut = batching.passes(batch, 32, packed)
        assert sorted(r.id for p in cut for r in p) == sorted(r.id for r in batch)
        assert all(cost(p) <= 32 or len(p) == 1 for p in cut)
    pairs = [Row(str(i), [1] * 10, 1, False, rejected=[1] * 8) for i in range(4)]
    assert [len(p) for p in batching.passes(pairs, 40, False)] == [2, 2]  # both answers of a pair count


def test_every_process_makes_the_same_number_of_passes_and_each_counts_once():
    cut = batching.passes(rows(20), 40, False)
    shares = [batching.share(cut, rank, 3) for rank in range(3)]
    assert len({len(s) for s in shares}) == 1
    counted = [r.id for s in shares for passed, counts in s if counts for r in passed]
    assert sorted(counted) == [r.id for r in rows(20)]


def test_the_rate_warms_up_and_decays_to_a_tenth():
    conf = Train(learning_rate=1e-2, warmup=0.1)
    rates = [batching.rate(step, 100, conf) for step in range(101)]
    assert rates[0] < rates[9] == max(rates) == 1e-2 and abs(rates[100] - 1e-3) < 1e-9
