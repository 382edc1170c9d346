"""Nothing that a model is judged on is learned: planted leaks are found, the task's own wording is none."""

import json
import random

import pytest

from flywheel import stage
from flywheel.errors import DataError
from tasks import clean, overlap
from tasks.suites import Item
from tests.tasks.records import cleaned, configured, example, ingested, lines

DICE = random.Random(3)
VOCABULARY = ["".join(DICE.choices("aeioustrnlm", k=DICE.randint(2, 8))) for _ in range(3000)]


def words(count: int, start: str = "") -> str:
    return f"{start}{' '.join(DICE.choices(VOCABULARY, k=count))}"


def question() -> tuple[str, str]:
    return words(14, "What is ") + "?", words(40) + "."


def test_300_planted_leaks_are_found_and_hardly_anything_else(home):
    judged = [question() for _ in range(300)]
    overlap.register("general", [Item(id=str(i), instruction=q, output=a) for i, (q, a) in enumerate(judged[:200])])
    verbatim = [example(q, a) for q, a in judged[:100]]
    reworded = [example(q.upper().replace("?", " ?!"), a.title().replace(" ", ", ")) for q, a in judged[100:200]]
    prefixes = [example(q if i % 2 else words(9, "Tell me "), " ".join(a.split()[:20])) for i, (q, a) in enumerate(judged[200:])]
    heldout = [example(q, a, "heldout") for q, a in judged[200:]]
    planted = {e.id for e in (*verbatim, *reworded, *prefixes)}
    innocent = [example(*question()) for _ in range(3000)]
    # Nearly innocent: a sentence of ten words, or the beginning of a question, in common with what is judged on.
    innocent += [example(words(8, "Why "), f"{words(15)} {' '.join(a.split()[5:15])} {words(15)}") for _, a in judged]
    innocent += [example(" ".join(q.split()[:8]), words(30)) for q, _ in judged]
    found = cleaned([*verbatim, *reworded, *prefixes, *heldout, *innocent], ["decontamination"])
    hit = {q["id"] for q in found.quarantine}
    assert len(hit & planted) >= 0.95 * len(planted) and len(hit & planted) >= 0.9 * len(hit)
    assert len(found.heldout) == 100
    print(f"recall {len(hit & planted) / len(planted):.3f}, precision {len(hit & planted) / len(hit):.3f}")


def test_the_pair_is_shown(home):
    found = cleaned([example("Why is it so?", words(20), "heldout"), example("why IS it so", "Because."), example("Else?", "No.")], ["decontamination"])
    (rejected,) = found.quarantine
    assert rejected["reason"].startswith("asks the same as heldout:") and "why is it so" in rejected["reason"]


def test_how_a_task_is_worded_is_no_leak(home):
    task = "Say in one word whether the writer of the following sentence was glad or sorry about what had happened to them on that day: "
    records = [example(task + words(12), DICE.choice(["glad", "sorry"]), "heldout" if i < 6 else "train") for i in range(40)]
    assert cleaned(records, ["decontamination"]).quarantine == []


def test_a_short_question_counts_when_it_is_whole(home):
    asked = example("Which rivers flow through Vienna today?", "The Danube and the Wien.", "heldout")
    inside = example("Please answer. Which rivers flow through Vienna today? Thanks.", "Several.")
    part = example("Which rivers flow through Rome?", "The Tiber.")
    found = cleaned([asked, inside, part], ["decontamination"])
    assert [q["id"] for q in found.quarantine] == [inside.id]


def test_stop_ends_the_run_with_the_pairs(home):
    run = ingested(lines([example("Why is it so?", "Well.", "heldout"), example("why is it so", "Because."), example("Else?", "No.")]))
    with pytest.raises(DataError, match=r"1 training records overlap evaluation examples.*why is it so because.*asks the same as heldout:"):
        stage.execute(clean.STAGE, configured({"steps": [{"step": "decontamination", "policy": "stop"}]}), run)


def test_an_overlap_that_a_later_step_brings_about_ends_the_run(home):
    run = ingested(lines([example("Why is it so?", "Well.", "heldout"), example("Why is it s\u200bo?", "Because."), example("Else?", "No.")]))
    with pytest.raises(DataError, match="make decontamination the last one"):
        stage.execute(clean.STAGE, configured({"steps": ["decontamination", "unicode"]}), run)


def test_the_config_s_suites_are_kept_out_before_they_were_ever_asked(home, tmp_path):
    (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": "Why is it so?"}) + "\n")
    suites = [{"name": "mine", "role": role, "path": f"{tmp_path}/mine.jsonl"} for role in ("own", "production")]
    records = [example("why is it so", "Because."), example("Else?", "No.")]
    assert len(cleaned(records, ["decontamination"], "own", evaluate={"suites": suites[:1]}).quarantine) == 1
    assert not cleaned(records, ["decontamination"], "production", evaluate={"suites": suites[1:]}).quarantine


def test_the_ledger_keeps_every_set_once_and_a_new_one_is_new_work(home):
    records = [example("why is it so", "Because."), example("Else?", "No.")]
    assert not cleaned(records, ["decontamination"]).quarantine
    for question in ("Why is it so?", "Why is it so?", "Who are you?"):
        overlap.register("general", [Item(id="1", instruction=question)])
    assert len(overlap.ledger()) == 2
    assert [q["reason"].split(":")[:2] for q in cleaned(records, ["decontamination"]).quarantine] == [["asks the same as general", "1"]]
