"""The whole of clean: every record counted, the same bytes whatever the order, twice the same, whatever is killed."""

import json
import os
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from flywheel import manifest, stage
from flywheel.config import Clean
from flywheel.errors import ContractError, DataError
from flywheel.records import Message
from tasks import clean
from tasks.cleaning.frame import Frame
from tests.tasks.records import Cleaned, cleaned, configured, example, ingested, lines

EVERY_STEP = tuple(step.step for step in Clean().steps)
WORDS = ["the", "a", "file", "opens", "reads", "writes", "path", "of", "line", "returns", "until", "ends", "whole", "text"]
SPLITS = st.sampled_from(["train", "train", "train", "heldout", "reserve"])
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=16).map(" ".join)
RECORDS = st.lists(
    st.one_of(
        st.builds(example, SENTENCES, SENTENCES, SPLITS, feedback=st.sampled_from([(), (), ("f1",)])),
        st.builds(example, st.just("what does the file of the path do until the line ends"), SENTENCES, SPLITS),
        st.builds(example, SENTENCES, SENTENCES, rejected=SENTENCES),
        st.builds(example, SENTENCES, SENTENCES, liked=st.booleans(), history=st.just((Message(role="user", content="hello there"),))),
        st.builds(example, st.text(min_size=1, max_size=40), st.text(min_size=1, max_size=200), SPLITS),
    ),
    min_size=1,
    max_size=30,
)  # fmt: skip
QUICK = profile(  # an example takes most of a second: no shrinking
    max_examples=12, deadline=None, phases=(Phase.explicit, Phase.reuse, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


def run(examples) -> Cleaned | None:
    try:
        return cleaned(examples, EVERY_STEP, uuid.uuid4().hex)
    except DataError:  # nothing is left to learn from
        return None


@QUICK
@given(RECORDS, st.randoms(use_true_random=False))
def test_nothing_vanishes_nothing_hangs_on_order_and_twice_is_the_same(home, examples, dice):
    found = run(examples)
    shuffled = list(examples)
    dice.shuffle(shuffled)
    again = run(shuffled)
    assert (found and found.bytes) == (again and again.bytes)
    if found:
        assert len(found.kept) + len(found.quarantine) == len(examples)
        assert [(c["step"], c["in"] - c["rejected"] - c["out"]) for c in found.steps] == [(name, 0) for name in EVERY_STEP]
        assert [c["in"] for c in found.steps] == [len(examples), *(c["out"] for c in found.steps[:-1])]
        assert Counter(record["step"] for record in found.quarantine) == Counter({c["step"]: c["rejected"] for c in found.steps if c["rejected"]})
        twice = run(found.kept)
        assert twice.quarantine == [] and not any(count["changed"] for count in twice.steps)
        assert all(twice.bytes[split] == found.bytes[split] for split in ("train", "heldout", "reserve"))


def sample(count: int) -> list:
    """Records with exact and near duplicates, conflicts and leaks, in no order."""
    dice = random.Random(1)
    vocabulary = ["".join(dice.choices("abcdefghij", k=6)) for _ in range(2000)]
    found = []
    for i in range(count):
        question, answer = " ".join(dice.choices(vocabulary, k=9)), dice.choices(vocabulary, k=40)
        found.append(example(question, " ".join(answer), "heldout" if i % 10 == 0 else "reserve" if i % 10 == 1 else "train"))
        if i % 7 == 0:
            found.append(example(question, " ".join([*answer[:-1], "changed"]), "train", source="other"))
        if i % 11 == 0:
            found.append(example(question, " ".join(answer), "train", source="another"))
        if i % 13 == 0:
            found.append(example(question, "a correction that somebody gave us", feedback=("f",)))
    dice.shuffle(found)
    return found


SAMPLE_STEPS = ("encoding", "unicode", "length", "exact_duplicates", "near_duplicates", "conflicts", "decontamination")


def test_every_step_is_counted_and_what_is_rejected_says_why(home):
    records = sample(300)
    found = cleaned(records, SAMPLE_STEPS)
    assert all(next(c for c in found.steps if c["step"] == step)["rejected"] for step in SAMPLE_STEPS[3:])
    assert [e.id for e in found.train] == sorted(e.id for e in found.train)
    assert [q["id"] for q in found.quarantine] == sorted(q["id"] for q in found.quarantine)
    assert all(q["reason"] and q["id"] == q["record"]["id"] for q in found.quarantine)
    assert len(found.heldout) == 30  # none goes for the sake of a training record


def test_many_parts_and_many_passes_give_the_same_bytes(home, monkeypatch):
    whole = cleaned(sample(200), SAMPLE_STEPS, "whole")
    monkeypatch.setattr("tasks.cleaning.frame.ROWS_A_PART", 10)
    parts = cleaned(sample(200), ("exact_duplicates", "encoding", "unicode", "near_duplicates", "length", "conflicts", "decontamination"), "parts")
    assert {name: data for name, data in parts.bytes.items() if name != "steps"} == {name: data for name, data in whole.bytes.items() if name != "steps"}


def test_a_record_that_vanished_is_a_fault_of_the_program(home, monkeypatch):
    run_dir = ingested(lines(sample(20)))
    monkeypatch.setattr(Frame, "left", property(lambda self: self._base.where("step = ''").limit(5)))
    with pytest.raises(ContractError, match=r"in, 0 were rejected and 5 are left\. This is a fault of the program"):
        stage.execute(clean.STAGE, configured({"steps": ["unicode"]}), run_dir)


def test_what_a_step_leaves_empty_is_rejected_by_it(home):
    found = cleaned([example("\u200b\u200b", "An answer."), example("Why?", "Because of that.")], ["unicode"])
    assert [(q["step"], q["reason"]) for q in found.quarantine] == [("unicode", "nothing is left of the instruction")]


def test_input_that_is_no_record_is_a_sentence(home):
    with pytest.raises(ContractError, match=r"1 lines are no records .*Run ingest again"):
        stage.execute(clean.STAGE, configured({}), ingested(lines(sample(3)) + '{"id": 1}\n'))


def test_a_word_list_that_is_not_there_is_named(home):
    with pytest.raises(ContractError, match=r"profanity: nowhere\.txt: there is no such file"):
        cleaned(sample(3), [{"step": "profanity", "words": "nowhere.txt"}])


def test_too_many_rejected_stop_the_run_and_stay_in_quarantine(home):
    run_dir = ingested(lines([example("Same?", "The same answer."), example("same", "the same answer"), example("Other?", "Quite another one.")]))
    with pytest.raises(DataError, match="1 of 3 records were rejected") as raised:
        stage.execute(clean.STAGE, configured({"steps": ["exact_duplicates"], "max_rejected": 0.3}), run_dir)
    assert json.loads(Path(raised.value.where).read_text())["step"] == "exact_duplicates"
    assert not Path(run_dir, "clean", "manifest.json").exists()


def test_ray_gives_the_same_bytes(home):
    """A cluster of two workers, started here; the stage is a process of its own, as Airflow starts it."""
    from ray.cluster_utils import Cluster

    run_dir = ingested(lines(sample(300)), "ray")
    Path(home, "c.yaml").write_text(configured({"steps": SAMPLE_STEPS}).model_dump_json(by_alias=True))
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        started(home, run_dir, "clean.engine.runner=ray", f"clean.engine.address={cluster.address}").wait()
    finally:
        cluster.shutdown()
    assert Cleaned(manifest.read_for(run_dir, "clean")).bytes == cleaned(sample(300), SAMPLE_STEPS, "native").bytes


def started(home, run_dir, *changes) -> subprocess.Popen:
    command = [sys.executable, "-m", "tasks.clean", "--config", f"{home}/c.yaml", "--run-dir", run_dir]
    return subprocess.Popen([*command, *(part for change in changes for part in ("--set", change))], env={**os.environ, "FLYWHEEL_HOME": str(home)})


def killed_and_retried(home, kills: int) -> None:
    Path(home).mkdir(exist_ok=True)
    Path(home, "c.yaml").write_text(configured({"steps": SAMPLE_STEPS}).model_dump_json(by_alias=True))
    whole = cleaned(sample(300), SAMPLE_STEPS, "whole").bytes
    run_dir, dice = ingested(lines(reversed(sample(300))), "killed"), random.Random(2)
    took = time.monotonic()
    assert started(home, ingested(lines(sample(299)), "timed")).wait() == 0
    took = time.monotonic() - took
    killed = 0
    for number in range(kills):
        process = started(home, run_dir, f"seed={number}")
        time.sleep(dice.uniform(0.2, 1) * took)
        process.kill()
        killed += process.wait() != 0
        if Path(run_dir, "clean", "manifest.json").exists():  # it was quicker: then it is whole
            assert Cleaned(manifest.read_for(run_dir, "clean")).bytes == whole
            Path(run_dir, "clean", "manifest.json").unlink()
    assert killed
    assert started(home, run_dir, "seed=1000").wait() == 0
    assert Cleaned(manifest.read_for(run_dir, "clean")).bytes == whole


def test_killed_three_times_it_ends_the_same(home):
    killed_and_retried(home, 3)


@pytest.mark.slow
def test_killed_twenty_times_it_ends_the_same(home):
    killed_and_retried(home, 20)
