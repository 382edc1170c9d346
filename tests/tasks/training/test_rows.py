from flywheel.config import Train
from tasks.training import rows as examples
from tasks.training.rows import Row


def test_choose_takes_corrections_first_and_replays():
    every = [Row(f"{i}", [1, 2, 3], 1, i % 10 == 0) for i in range(100)]
    conf = Train(max_examples=40, replay=0.25)
    assert all(r.feedback for r in examples.choose(every, set(), conf, 1)[:10])
    learned = {str(i) for i in range(50)}
    chosen = examples.choose(every, learned, conf, 1)
    assert (len(chosen), sum(r.id in learned for r in chosen)) == (40, 10)
    assert len(examples.choose(every, {r.id for r in every}, conf, 1)) == 40
    assert not any(r.id in learned for r in examples.choose(every, learned, Train(replay=0), 1))
