"""Compare trainer and server: the same token ids, and the same probabilities of the answers. The gate refuses what differs.

    python -m tasks.parity --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1

The trainer's side is what it left: the ids it learned from, and the losses it had at its end (`train.probe`). The server's side is
computed here the way it loads and prompts. The tokenizer beside the adapter must agree with both, for those who serve it elsewhere.
Output: `findings` (JSON: every difference, in a sentence).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flywheel import base_model, prompt, stage
from flywheel.config import Config
from flywheel.manifest import Artifact
from flywheel.model import load, score_answers
from flywheel.records import Example
from tasks import integrity
from tasks.training import rows
from tasks.training.rows import Row

SPECIAL = ("bos_token_id", "eos_token_id", "pad_token_id")
BATCH = 8


def extra(ctx: stage.Context) -> dict[str, Artifact]:
    """The base model as it is now."""
    return {"base": base_model.identity(ctx.config.model.base)}


def same_tokens(learned: Sequence[Row], examples: Mapping[str, Example], server: Any, beside: Any, style: prompt.Style, limit: int) -> list[str]:
    """How the ids that were learned, at most `limit` an example, differ from what the server's tokenizer and the one beside the adapter write."""
    found = []
    for name in SPECIAL:
        if getattr(server, name) != getattr(beside, name):
            found.append(f"{name} is {getattr(server, name)} for the server and {getattr(beside, name)} beside the adapter")
    known = [row for row in learned if row.id in examples]
    turns = [prompt.messages(e.instruction, e.input, e.history) for e in (examples[row.id] for row in known)]
    answers = [examples[row.id].output for row in known]
    for who, tokenizer in (("the server", server), ("the tokenizer beside the adapter", beside)):
        asked, said = prompt.encode_all(tokenizer, turns, style), prompt.encode_answers(tokenizer, answers)
        # What was too long was shortened: a prompt from its beginning, an answer at its end.
        other = sum(row.ids[: row.prompt] != ids[row.left_out :] for row, ids in zip(known, asked, strict=True))
        if other:
            found.append(f"{other} of {len(known)} prompts are not what {who} writes")
        other = sum(row.ids[row.prompt :] != ids[: limit - row.prompt] for row, ids in zip(known, said, strict=True))
        if other:
            found.append(f"{other} of {len(known)} answers, with the token that ends them, are not what {who} reads")
    return found


def drift(probe: Mapping[str, float], learned: Sequence[Row], base: Path, adapter: Path) -> float:
    """By how many nats a token the server's loss of the probe's answers differs from the trainer's, in the mean over answers."""
    asked = [row for row in learned if row.id in probe]
    scores = score_answers(load(base, adapter, "float32"), [(row.ids, row.prompt) for row in asked], BATCH)
    apart = [abs(score.loss - probe[row.id]) / score.tokens for row, score in zip(asked, scores, strict=True)]
    return sum(apart) / len(apart)


def differences(
    conf: Config, learned: Sequence[Row], examples: Mapping[str, Example], probe: dict[str, Any], base: Path, adapter: Path
) -> tuple[list[str], float | None]:
    """Everything in which trainer and server differ, in sentences, and the drift where it could be measured."""
    if problem := integrity.adapter_problem(adapter, base):
        return [problem], None
    trained = json.loads((adapter / "training.json").read_bytes())["train"]
    config = json.loads((adapter / "adapter_config.json").read_bytes())
    compared, model = learned[: conf.parity.conversations], conf.model
    found = same_tokens(compared, examples, prompt.load_tokenizer(base), prompt.load_tokenizer(adapter), model.prompt, model.max_length)
    for key, name in (("r", "rank"), ("lora_alpha", "alpha")):
        if config[key] != trained[name]:
            found.append(f"the adapter's {name} is {config[key]}, and {trained[name]} was trained")
    found += [f"the adapter is in {kind}, and was trained in F32" for kind in _kinds(adapter) - {"F32"}]
    apart = drift(probe["losses"], learned, base, adapter)
    limit = conf.parity.quantized_tolerance if probe["quantized"] else conf.parity.tolerance
    if not apart <= limit:
        found.append(f"the server's losses differ from the trainer's by {apart:.4f} nats a token, more than {limit:g}: other weights are served")
    return found, apart


def _kinds(adapter: Path) -> set[str]:
    from safetensors import safe_open

    with safe_open(str(adapter / "adapter_model.safetensors"), "pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118 - it is no dictionary


def run(ctx: stage.Context) -> None:
    """Compare, and say every difference."""
    objective = ctx.config.train.objective
    learned = rows.read(ctx.fetch(f"tokenize.{rows.INPUT[objective]}"), objective)
    probe = json.loads(ctx.fetch("train.probe").read_bytes())
    learned.sort(key=lambda row: row.id not in probe["losses"])  # the probe first
    examples = {e.id: e for e in map(Example.model_validate_json, ctx.fetch("clean.train").read_bytes().splitlines())}
    base = base_model.local_folder(ctx.config.model.base, ctx.cache)
    found, apart = differences(ctx.config, learned, examples, probe, base, ctx.fetch("train.adapter"))
    compared = min(len(learned), ctx.config.parity.conversations)
    for sentence in found:
        ctx.say(f"  {sentence}")
    if apart is not None:
        ctx.say(f"{compared} conversations compared; the losses of {len(probe['losses'])} answers differ by {apart:.4f} nats a token")
    ctx.path("findings.json").write_text(json.dumps(found, indent=1))
    ctx.output("findings", ctx.path("findings.json"), len(found))
    ctx.metrics |= {"conversations": compared, "answers": len(probe["losses"]), "differences": len(found), "drift": apart}


STAGE = stage.Stage("parity", run, needs=("clean", "tokenize", "train"), extra=extra)
if __name__ == "__main__":
    stage.main(STAGE)
