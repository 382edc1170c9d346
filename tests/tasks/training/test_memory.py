"""Two processes, one of which runs out of memory: all begin again with smaller passes, once."""

import re

import pytest

from tests.tasks.training.test_backends import trained, turn  # noqa: F401 - a fixture
from tests.tasks.training.test_kills import start

DDP = ("train.backend=ddp", "train.processes=2", "train.micro_tokens=200")


@pytest.mark.slow
def test_two_processes_begin_again_with_smaller_passes_once(turn, home):  # noqa: F811
    alone, _ = trained(turn, home)
    process = start(home, DDP, NO_MORE_TOKENS="100")
    assert process.wait() == 0, (home / "said").read_text()
    said = (home / "said").read_text()
    assert len(re.findall(r"the processes begin again with passes of \d+ tokens", said)) == 1
    assert trained(turn, home, *DDP)[0] == pytest.approx(alone, abs=1e-3)  # from the cache: it is the same work
    refused = start(home, (*DDP, "train.epochs=2"), NO_MORE_TOKENS="30")
    assert refused.wait() == 2 and "Lower train.micro_tokens" in (home / "said").read_text()
