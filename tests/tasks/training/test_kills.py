"""Twenty kills of one run at random moments, some in the middle of a save, each retried: nothing is taken for finished, little is lost,
the end is the same. With one process, and with two under DeepSpeed's ZeRO-2.  make test-slow
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from flywheel import manifest
from flywheel.settings import REPOSITORY
from tests.tasks.training.test_backends import needs, start_over, trained, turn  # noqa: F401 - a fixture

KILLS, FURTHEST = 10, 25
ONE = ("train.epochs=60", "train.checkpoint_seconds=0.2")
TWO = ("train.epochs=40", "train.checkpoint_seconds=0.2", "train.backend=zero2", "train.processes=2")


def start(home, options, **variables):
    """The stage in a process group of its own, under watch."""
    command = [sys.executable, "-m", "tasks.train", "--config", f"{home}/c.yaml", "--run-dir", f"{home}/store/runs/t/a"]
    command += [part for option in options for part in ("--set", option)]
    paths = os.pathsep.join((str(Path(__file__).parent / "watched"), str(REPOSITORY)))
    environment = {**os.environ, "FLYWHEEL_HOME": str(home), "PYTHONPATH": paths, "WATCHED": f"{home}/watched", **variables}
    return subprocess.Popen(command, cwd=REPOSITORY, env=environment, stdout=open(home / "said", "w"), stderr=subprocess.STDOUT, start_new_session=True)


def watched(home):
    """What was begun and done since the file was emptied: pairs of what and number."""
    with suppress(FileNotFoundError):
        return [(what, int(number)) for what, number in (line.split() for line in (home / "watched").read_text().splitlines())]
    return []


def wait_for(home, process, what, count):
    """Until so many lines say so, or the process has ended."""
    while sum(event == what for event, _ in watched(home)) < count and process.poll() is None:
        time.sleep(0.002)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
@pytest.mark.parametrize("options", [ONE, TWO], ids=["one", "zero2"])
def test_kills_at_random_moments_change_nothing(turn, home, how, options):  # noqa: F811
    if options is TWO:
        needs("zero2")
    whole, _ = trained(turn, home, *options)
    start_over(home)
    done = home / "store/runs/t/a/train/manifest.json"
    dice, kept, reached, lost, saves = random.Random(int(how)), 0, 0, [], 0
    for kill in range(KILLS + 1):
        (home / "watched").unlink(missing_ok=True)
        process = start(home, options)
        if kill == KILLS:
            assert process.wait() == 0, (home / "said").read_text()
        elif kill == 1:  # while it starts
            time.sleep(dice.uniform(0, 10))
        elif kill % 3 == 2:
            wait_for(home, process, "saving", dice.randint(1, 3))
            time.sleep(dice.uniform(0, 0.04))
        else:
            wait_for(home, process, "step", dice.randint(1, FURTHEST))
            time.sleep(dice.uniform(0, 0.03))
        if kill < KILLS:
            (os.kill if how == signal.SIGTERM else os.killpg)(process.pid, how)
            process.wait()
            said = (home / "said").read_text()
            assert process.returncode in (143, -how) and not done.exists(), said
        events = watched(home)
        begun = [number for what, number in events if what == "begin"]
        if begun:
            lost.append(reached - begun[0])
            assert begun[0] >= kept, f"step {kept} was saved, and {begun[0]} was gone on from"
            reached = begun[-1] + 1
        kept = max([kept, *(number for what, number in events if what == "saved")])
        saves += bool(events) and events[-1][0] == "saving"
    assert how == signal.SIGKILL or max(lost) <= 1  # the step it was in
    losses = [json.loads(line)["loss"] for line in manifest.read(str(done)).outputs["losses"].fetch(home / "cache").read_text().splitlines()]
    apart = max(abs(a - b) for a, b in zip(losses, whole, strict=True))
    print(f"\n{how.name}: {KILLS} kills, {saves} in a save; steps lost at each: {lost}; losses differ by at most {apart:g}")
    assert losses[-1] == pytest.approx(whole[-1], abs=1e-3) and json.loads(done.read_text())["outcome"] == "done"
