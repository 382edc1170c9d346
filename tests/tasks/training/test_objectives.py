"""Preferences and thumbs move the model the way people pointed, on examples it has not seen."""

import random

import pytest
import torch

from flywheel.config import Train
from flywheel.errors import DataError
from tasks.training import base, loop, objectives
from tasks.training.backends import Single, scorer
from tasks.training.rows import Row
from tests.tasks.training.conftest import FAST


def pairs(count, seed):
    """People like answers that end politely."""
    dice = random.Random(seed)
    found = []
    for i in range(count):
        prompt = [4 + dice.randrange(60) for _ in range(6)]
        body = [4 + dice.randrange(60) for _ in range(5)]
        found.append(Row(f"{seed}-{i}", [*prompt, *body, 90, 91, 1], 6, False, rejected=[*prompt, *body, 92, 93, 1]))
    return found


def thumbs(count, seed):
    return [Row(r.id, r.tokens if i % 3 else r.rejected, 6, False, liked=bool(i % 3)) for i, r in enumerate(pairs(count, seed))]


def scored(tiny_model, adapter, sequences):
    model = base.build(tiny_model, adapter, Train(**FAST), "float32", "cpu", 1).eval()
    with torch.no_grad():
        return scorer(model, 0, "cpu", "float32", False)(sequences)


def test_dpo_on_200_pairs_raises_the_margin_on_held_out_ones(fit, tiny_model, tmp_path):
    losses = fit(pairs(200, 1), objective="dpo", epochs=2, learning_rate=0.005)
    assert losses[0] == pytest.approx(0.6931, abs=1e-3)  # log 2: nothing is preferred yet
    unseen = pairs(40, 2)
    preferred = objectives.Preferred(unseen, Train())
    sequences = [s for row in unseen for s in preferred.sequences(row)]
    preferred.remember(unseen, lambda s: scored(tiny_model, None, s))
    margins = preferred.margins(unseen, scored(tiny_model, tmp_path / "one" / "adapter", sequences))
    assert margins.mean() > 0.5 and (margins > 0).float().mean() > 0.9


def test_kto_on_thumbs_moves_the_win_rate(fit, tiny_model, tmp_path):
    fit(thumbs(150, 3), objective="kto", epochs=3, learning_rate=0.005)
    unseen = pairs(40, 4)
    sequences = [s for row in unseen for s in objectives.Preferred(unseen, Train()).sequences(row)]

    def wins(adapter):
        losses = scored(tiny_model, adapter, sequences).reshape(-1, 2)
        return (losses[:, 0] < losses[:, 1]).float().mean()

    assert wins(tmp_path / "one" / "adapter") > max(0.9, wins(None))


def test_the_formulas(monkeypatch):
    two = pairs(2, 5)
    dpo = objectives.Preferred(two, Train(beta=0.5))
    dpo.before = {two[0].id: torch.tensor([4.0, 6.0]), two[1].id: torch.tensor([5.0, 5.0])}
    loss = dpo.loss(two, torch.tensor([3.0, 8.0, 6.0, 5.0]))  # +1 and +2 nats of margin; -1
    assert loss == pytest.approx(-sum(torch.nn.functional.logsigmoid(torch.tensor(0.5 * m)).item() for m in (3.0, -1.0)))
    said = thumbs(3, 6)
    kto = objectives.Thumbs(said, Train(beta=0.5))
    assert kto.say == {True: 3 / 4, False: 3 / 2}  # the one thumb down has the say of both up
    kto.before = {r.id: torch.tensor([5.0]) for r in said}
    kto.drift = 1.0
    sigmoid = torch.sigmoid(torch.tensor([0.5 * (1 - 2), 0.5 * (3 - 1), 0.5 * (0 - 1)]))  # down gained 2; up gained 3 and 0
    weights = torch.tensor([1.5, 0.75, 0.75])
    assert kto.loss(said, torch.tensor([3.0, 2.0, 5.0])) == pytest.approx((weights * (1 - sigmoid)).sum().item())


def test_thumbs_of_one_kind_teach_nothing():
    with pytest.raises(DataError, match="every thumb is up"):
        objectives.Thumbs([r for r in thumbs(9, 1) if r.liked], Train())


def test_loop_knows_every_objective():
    assert set(objectives.OBJECTIVES) == set(Train.model_fields["objective"].annotation.__args__)
    assert loop.OBJECTIVES is objectives.OBJECTIVES and Single.world == 1
