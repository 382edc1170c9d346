"""Twenty kills of one run at random moments, each retried: nothing is taken for finished, little is lost, the end is the same."""

import json
import random
import re
import signal
import time

import pytest

from flywheel import manifest
from tests.tasks.training.test_backends import trained, turn  # noqa: F401 - a fixture

KILLS = 10
OPTIONS = ("train.epochs=60", "train.checkpoint_seconds=0.2")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_kills_at_random_moments_change_nothing(turn, home, how):  # noqa: F811
    whole, _ = trained(turn, home, *OPTIONS)
    run, done = home / "store/runs/t/a/train", home / "store/runs/t/a/train/manifest.json"
    dice, saved, killed = random.Random(int(how)), 0, 0
    for path in [done, *(home / "store/cache/train").iterdir(), *run.glob("checkpoints/*/step-*")]:
        path.unlink()
    while killed < KILLS:
        process = turn("train", *OPTIONS)
        said = ""
        while "steps of" not in said and (line := process.stdout.readline()):
            said += line
        time.sleep(dice.uniform(0, 4))
        before = max((int(p.name.split("-")[1]) for p in run.glob("checkpoints/*/step-*")), default=0)
        process.send_signal(how)
        said += process.communicate()[0]
        if process.returncode == 0:
            break  # it was quicker than the kills: the rest of them would find a finished run
        killed += 1
        assert process.returncode in (143, -how) and not done.exists(), said
        if resumed := re.search(r"going on from the checkpoint at step (\d+)", said):
            assert int(resumed[1]) >= saved  # nothing that was saved was lost
        stopped = re.search(r"step (\d+) of \d+ is saved", said)
        saved = int(stopped[1]) if stopped else before
    assert killed >= 3
    losses, _ = trained(turn, home, *OPTIONS)
    assert len(losses) == len(whole) and losses[-1] == pytest.approx(whole[-1], abs=1e-3)
    assert json.loads(done.read_text())["outcome"] == "done" and manifest.read(str(done)).outputs["adapter"].files
