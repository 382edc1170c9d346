"""The real loop on a tiny model."""

import pytest
import torch

from flywheel import store
from flywheel.errors import ContractError, DataError, Preempted, TransientError
from tasks.training import checkpoints, loop
from tests.tasks.training.conftest import Controls, rows

# Of a tiny run on this seed: a change of the mathematics shows here first.
PINNED = [5.5781, 5.4869, 5.4556]


def test_losses_of_a_tiny_run(fit):
    losses = fit(rows(64), epochs=6)
    assert losses[:3] == pytest.approx(PINNED, abs=2e-3)
    assert sum(losses[-5:]) < sum(losses[:5]) - 0.5


def test_the_same_run_gives_the_same_adapter(fit, tmp_path):
    for name in ("a", "b"):
        fit(rows(24), folder=tmp_path / name, dropout=0.1)
    files = sorted(p.name for p in (tmp_path / "a" / "adapter").iterdir())
    assert "adapter_model.safetensors" in files
    assert all(store.sha256_file(tmp_path / "a" / "adapter" / n) == store.sha256_file(tmp_path / "b" / "adapter" / n) for n in files)


def test_a_stopped_run_goes_on_to_the_same_losses(fit, tmp_path):
    whole = fit(rows(48), folder=tmp_path / "whole", dropout=0.1)
    with pytest.raises(Preempted, match="step 3 of 6 is saved"):
        fit(rows(48), Controls(stop_after=3), folder=tmp_path / "cut", dropout=0.1)
    again = Controls()
    assert fit(rows(48), again, folder=tmp_path / "cut", dropout=0.1) == whole
    assert "going on from the checkpoint at step 3 of 6" in again.said
    same = [store.sha256_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("whole", "cut")]
    assert same[0] == same[1]


@pytest.mark.parametrize(
    "changes", [{"batching": "packed"}, {"micro_tokens": 40}, {"gradient_checkpointing": "on"}, {"batching": "packed", "micro_tokens": 60}]
)
def test_how_a_step_is_cut_changes_no_loss(fit, tmp_path, changes):
    assert fit(rows(32), folder=tmp_path / "b", **changes) == pytest.approx(fit(rows(32), folder=tmp_path / "a"), abs=2e-3)


@pytest.mark.parametrize("changes", [{}, {"gradient_checkpointing": "on"}])
def test_bf16_is_the_same_but_for_rounding(fit, tmp_path, changes):
    assert fit(rows(32), folder=tmp_path / "b", precision="bfloat16", **changes) == pytest.approx(fit(rows(32), folder=tmp_path / "a"), abs=0.05)


def test_out_of_memory_halves_once(fit, tmp_path, monkeypatch):
    real = loop.backends.Single.score
    widths = []

    def small(limit):
        def score(self, examples):
            widths.append(len(examples))
            if len(examples) > limit:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return real(self, examples)

        return score

    whole = fit(rows(16), folder=tmp_path / "a")
    monkeypatch.setattr(loop.backends.Single, "score", small(6))
    controls = Controls()
    assert fit(rows(16), controls, folder=tmp_path / "b") == pytest.approx(whole, abs=2e-3)
    assert sum("out of memory at step 0" in line for line in controls.said) == 1 and widths[0] == 8
    controls = Controls()
    monkeypatch.setattr(loop.backends.Single, "score", small(8))  # a step's pass has room, and the last look at more answers has none
    fit(rows(16), controls, folder=tmp_path / "d")
    assert sum("out of memory at step 2" in line for line in controls.said) == 1
    monkeypatch.setattr(loop.backends.Single, "score", small(1))
    with pytest.raises(ContractError, match=r"out of memory at step 0 with passes of \d+ tokens\. Lower train.micro_tokens"):
        fit(rows(16), folder=tmp_path / "c")


def test_a_loss_that_is_no_number_stops_before_it_is_in_the_weights(fit, tmp_path, monkeypatch):
    real = loop.backends.Single.score
    calls: list[int] = []
    monkeypatch.setattr(checkpoints, "WORTH", 0)

    def broken(self, examples):
        calls.append(1)
        return real(self, examples) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(loop.backends.Single, "score", broken)
    with pytest.raises(DataError, match="the loss is nan at step 4; the checkpoint of step 4 is kept"):
        fit(rows(64), checkpoint_seconds=1e-9)


def test_no_space_for_a_checkpoint(fit, monkeypatch):
    from types import SimpleNamespace

    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(TransientError, match="checkpoints need"):
        fit(rows(16))
