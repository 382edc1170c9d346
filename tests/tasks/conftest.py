"""A run of the tiny model, through every stage up to the gate, on a real MLflow and a real PostgreSQL."""

from __future__ import annotations

import json
import random

import pytest

from flywheel import config, stage
from flywheel.settings import settings
from tasks import clean, dataset, evaluate, gate, ingest, parity, tokenize, train

TINY = """
model: {{base: '{base}', max_length: 256}}
ingest: {{sources: [{{kind: files, path: '{home}/records.jsonl', licence: CC0-1.0, consent: made here}}], heldout: 0.25}}
clean: {{steps: [unicode, length, exact_duplicates, decontamination]}}
train: {{learning_rate: 0.01, rank: 8, threads: 1, epochs: 2}}
evaluate: {{examples: 60, generate: 6, max_new_tokens: 8, embedder: ''}}
gate: {{general_margin: 10, slice_margin: 10}}
rollout: {{wait_seconds: 0}}
"""


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Questions whose answers have a form that a tiny model learns."""
    dice = random.Random(seed)
    numbers = dice.sample(range(10, 900), count)
    return [{"instruction": f"Next after {n}?", "output": f"It is {n + 1}.", "slice": "even" if n % 2 else "odd"} for n in numbers]


@pytest.fixture
def wheel(database, mlflow_server, home, tiny_model):
    """Runs stages of a named run in this process; the run's folder comes back."""
    home.mkdir(exist_ok=True)
    (home / "records.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows(240)))
    (home / "c.yaml").write_text(TINY.format(base=tiny_model, home=home))

    def run(name: str, *changes: str, stages=(ingest, clean, tokenize, train, dataset, parity, evaluate, gate)) -> str:
        folder = f"{settings().store}/runs/t/{name}"
        conf = config.load(str(home / "c.yaml"), list(changes))
        for module in stages:
            stage.execute(module.STAGE, conf, folder)
        return folder

    return run
