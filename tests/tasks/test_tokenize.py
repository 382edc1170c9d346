"""Tokenizing on a byte-level tokenizer, whose ids can be counted by hand."""

import json

import pyarrow as pa
import pytest

from flywheel import config, manifest, prompt, stage
from flywheel.errors import DataError
from flywheel.records import Example, Message, example_id
from flywheel.settings import settings
from tasks import parity, tokenize
from tasks.training import rows as trainer_rows


def example(instruction, output, **more):
    texts = {key: more[key] for key in ("history", "rejected", "liked") if key in more}
    return Example(
        id=example_id(instruction, more.get("input", ""), output, **texts), instruction=instruction, output=output, group=instruction, source="s", licence="l",
        consent="c", **more,
    )  # fmt: skip


@pytest.fixture
def tokenized(home, tiny_model):
    """Runs the stage on these training records; gives its manifest and a reader of its Arrow files."""

    def run(examples, *changes, name="one"):
        folder = home / "store" / "runs" / "t" / name
        (folder / "clean" / "attempt-1").mkdir(parents=True)
        outputs = {}
        for split, chosen in (("train", examples), ("heldout", []), ("reserve", [])):
            path = folder / "clean" / "attempt-1" / f"{split}.jsonl"
            path.write_text("".join(e.model_dump_json() + "\n" for e in sorted(chosen, key=lambda e: e.id)))
            outputs[split] = manifest.describe(path, str(path), len(chosen))
        body = {
            "stage": "clean",
            "run_dir": f"runs/t/{name}",
            "attempt": 1,
            "cache_key": "k",
            "started": "2026-01-01T00:00:00Z",
            "ended": "2026-01-01T00:00:00Z",
        }
        manifest.write(manifest.Manifest(**body, outputs=outputs), str(folder))
        (home / "c.yaml").write_text("ingest: {sources: [{kind: docs, licence: x, consent: y}]}")
        conf = config.load(str(home / "c.yaml"), [f"model.base={tiny_model}", "model.max_length=64", *changes])
        made = stage.execute(tokenize.STAGE, conf, str(folder))
        return made, lambda output: pa.ipc.open_file(made.outputs[output].fetch(settings().home / "cache")).read_all().to_pylist()

    return run


def test_each_kind_goes_to_its_own_file(tokenized, tiny_model):
    tokenizer = prompt.load_tokenizer(tiny_model)
    examples = [example("Q?", "yes", input="in"), example("Q?", "good", rejected="bad"), example("Q?", "meh", liked=False), example("Z?", "ok", liked=True)]
    made, read = tokenized(examples)
    (learned,), (pair,), thumbs = read("train"), read("preferences"), read("thumbs")
    assert tokenizer.decode(learned["input_ids"]) == "<user>Q?\n\nin<end><assistant>yes<end>"
    assert tokenizer.decode(learned["input_ids"][: learned["prompt_length"]]) == "<user>Q?\n\nin<end><assistant>"
    assert [tokenizer.decode(pair[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")] == ["<user>Q?<end><assistant>", "good<end>", "bad<end>"]
    assert {(tokenizer.decode(t["completion_ids"]), t["label"]) for t in thumbs} == {("meh<end>", False), ("ok<end>", True)}
    assert (made.metrics["examples"], made.metrics["preferences"], made.metrics["thumbs"]) == (1, 1, 2)


SHORT, LONG = example("Short?", "It is."), example("Long " * 20, "The whole answer.", history=(Message(role="user", content="before"),))
ENDLESS = example("Why?", "because " * 20)


@pytest.mark.parametrize(
    ("policy", "learned", "counts"),
    [("drop", {SHORT}, {"dropped": 2, "cut": 0, "shortened": 0}), ("cut", {SHORT, ENDLESS}, {"dropped": 1, "cut": 1, "shortened": 0}),
     ("left", {SHORT, LONG}, {"dropped": 1, "cut": 0, "shortened": 1})],
)  # fmt: skip
def test_what_is_too_long_goes_by_policy_and_is_counted(tokenized, tiny_model, policy, learned, counts):
    tokenizer = prompt.load_tokenizer(tiny_model)
    made, read = tokenized([SHORT, LONG, ENDLESS], f"tokenize.truncate={policy}")
    rows = {row["id"]: row for row in read("train")}
    assert set(rows) == {e.id for e in learned} and all(len(row["input_ids"]) <= 64 for row in rows.values())
    assert {name: made.metrics[name] for name in counts} == counts and made.metrics["too_long"] == 2
    if policy == "left":
        row = rows[LONG.id]
        assert tokenizer.decode(row["input_ids"]).endswith("Long <end><assistant>The whole answer.<end>") and len(row["input_ids"]) == 64
    if policy == "cut":
        assert rows[ENDLESS.id]["input_ids"][-1] != tokenizer.eos_token_id  # a cut answer does not claim to end
    kept = trainer_rows.read(made.outputs["train"].fetch(settings().home))
    assert parity.same_tokens(kept, {e.id: e for e in learned}, tokenizer, tokenizer, "auto", 64) == []  # shortened as the server would read them


def test_lengths(tokenized, home):
    made, _ = tokenized([SHORT, LONG, ENDLESS])
    found = json.loads(made.outputs["lengths"].fetch(home).read_text())
    assert found["both"]["min"] == made.metrics["length.min"] == len("Short?It is.") + 4 and found["over_limit"] == pytest.approx(2 / 3)
    assert sum(found["answer"]["counts"]) == 3 and len(found["edges"]) == len(found["both"]["counts"]) + 1
    assert found["prompt"]["max"] == len("before" + "Long " * 20) + 5


def test_nothing_left_to_learn_is_said_so(tokenized):
    with pytest.raises(DataError, match="truncate"):
        tokenized([LONG, ENDLESS])


def test_the_trainer_reads_rows_from_the_mapped_file(tokenized, monkeypatch):
    monkeypatch.setattr(tokenize, "BATCH", 3)
    examples = [example(f"Next after {n}?", f"It is {n + 1}.", feedback_ids=("f",) if n % 2 else ()) for n in range(10)]
    made, read = tokenized(examples)
    rows = trainer_rows.read(made.outputs["train"].fetch(settings().home))
    assert [(r.id, r.ids, r.prompt, r.feedback) for r in rows] == [(r["id"], r["input_ids"], r["prompt_length"], r["feedback"]) for r in read("train")]
    assert len(rows) == 10 and all(type(r.ids[0]) is int and not r.tokens.flags.owndata and not r.tokens.flags.writeable for r in rows)  # views, no copies
    one_by_one, _ = tokenized(examples, name="two")
    assert one_by_one.outputs["train"].sha256 == made.outputs["train"].sha256


def test_the_data_set_is_looked_over_before_anything_else(tokenized, home):
    twice = [SHORT, SHORT]
    with pytest.raises(DataError, match=r"1 records have another's id.*tokenize\.validation\.stop"):
        tokenized(twice)
    made, _ = tokenized(twice, "tokenize.validation.stop=[]", name="two")
    assert made.metrics["warnings"] == 1
    found = {f["name"]: f["outcome"] for f in json.loads(made.outputs["checks"].fetch(home).read_text())}
    assert found == {"duplicates": "warn", "empty": "pass", "balance": "skip", "length_drift": "skip", "vocabulary_drift": "skip"}
