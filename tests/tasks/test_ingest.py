import json
from collections import Counter

from flywheel import config, stage
from tasks import ingest


def test_one_instruction_over_many_inputs_falls_on_every_side(tmp_path):
    rows = [{"instruction": "Classify the sentence.", "input": f"sentence {i}", "output": "good" if i % 2 else "bad"} for i in range(200)]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, [*rows, *rows[:20]])))
    source = {"kind": "files", "path": str(tmp_path / "a.jsonl"), "licence": "CC0-1.0", "consent": "made here"}
    conf = config.Config.model_validate({"ingest": {"sources": [source], "heldout": 0.2, "feedback": False}})
    done = stage.execute(ingest.STAGE, conf, str(tmp_path / "run"))
    records = [json.loads(line) for line in done.outputs["records"].fetch(tmp_path / "cache").read_text().splitlines()]
    counts = Counter(r["split"] for r in records)
    assert counts["heldout"] > 20 and counts["train"] > 100
    sides = {r["input"]: {s["split"] for s in records if s["input"] == r["input"]} for r in records}
    assert all(len(s) == 1 for s in sides.values())
