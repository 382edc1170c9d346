"""QLoRA on real text: SmolLM2-135M in NF4 learns from docstrings for sixty steps.  make test-slow"""

import math
from pathlib import Path

import pytest

from flywheel import base_model, prompt
from flywheel.config import Train
from flywheel.manifest import Cost
from flywheel.model import load, score_answers
from flywheel.settings import REPOSITORY
from tasks import sources
from tasks.training import loop
from tasks.training.machine import Machine
from tasks.training.rows import Row
from tests.tasks.training.conftest import Controls

STEPS, BATCH, HELD_OUT, LONGEST, WINDOW = 60, 8, 64, 256, 6


@pytest.mark.slow
def test_sixty_steps_of_qlora_lower_the_loss_by_a_quarter_and_the_perplexity_of_what_was_not_learned(home, tmp_path):
    kept = REPOSITORY / ".flywheel" / "cache"
    base = base_model.local_folder(base_model.BUILT_IN, kept if kept.is_dir() else home / "cache")
    tokenizer = prompt.load_tokenizer(base)
    modules: dict[str, list[Row]] = {}
    for found in sources.docs():
        if not isinstance(found, sources.Rejected):
            record = found[2]
            question = prompt.encode(tokenizer, prompt.messages(record.instruction))
            row = Row(record.instruction, question + prompt.encode_answer(tokenizer, record.output), len(question), False)
            if len(row.tokens) <= LONGEST:
                modules.setdefault(record.group, []).append(row)
    held_out: list[Row] = []
    names = sorted(modules, key=lambda name: (len(modules[name]), name))  # small modules are held out whole
    while len(held_out) < HELD_OUT:
        held_out += modules.pop(names.pop(0))
    learned = [row for name in names for row in modules[name]][: STEPS * BATCH]
    conf = Train(method="qlora", batch_size=BATCH, device="cpu")
    job = loop.Job(conf, 1, "smollm2", base, None, learned, str(tmp_path / "checkpoints"), "cpu", Machine.here().precision(conf))
    losses = [point["loss"] for point in loop.fit(job, Controls(), Cost, tmp_path / "adapter").losses]

    def perplexity(adapter: Path | None) -> float:
        scores = score_answers(load(base, adapter, "float32"), [(row.ids, row.prompt) for row in held_out], BATCH)
        return math.exp(sum(s.loss for s in scores) / sum(s.tokens for s in scores))

    first, last = (sum(losses[part]) / WINDOW for part in (slice(WINDOW), slice(-WINDOW, None)))
    before, after = perplexity(None), perplexity(tmp_path / "adapter")
    print(f"\n{len(losses)} steps: loss {first:.3f} to {last:.3f} ({1 - last / first:.0%} less); held-out perplexity {before:.1f} to {after:.1f}")
    assert len(losses) == STEPS and last <= 0.75 * first and after < 0.8 * before
