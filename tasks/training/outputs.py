"""What training leaves: the adapter with all that is needed to use it; on request the merged model, checked against the unmerged one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flywheel.errors import DataError
from flywheel.model import load

if TYPE_CHECKING:
    from torch import Tensor

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "generation_config.json")
EQUAL = 2e-3  # nats by which a merged model's log-probabilities may differ from the unmerged one's, both in float32


def save_adapter(model: Any, weights: dict[str, Tensor], base: str, folder: Path) -> None:
    """Weights and config, the same bytes for the same training: no paths of this machine, and names in order."""
    model.save_pretrained(str(folder), state_dict=weights)
    (folder / "README.md").unlink(missing_ok=True)  # the card is written when the version is registered
    path = folder / "adapter_config.json"
    config = json.loads(path.read_text()) | {"base_model_name_or_path": base}
    config["target_modules"] = sorted(config["target_modules"]) if isinstance(config["target_modules"], list) else config["target_modules"]
    path.write_text(json.dumps(config, indent=1, sort_keys=True))


def accompany(folder: Path, base: Path, record: dict[str, Any]) -> None:
    """Beside the adapter: tokenizer, generation config, and how it was trained."""
    for name in TOKENIZER:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
    (folder / "training.json").write_text(json.dumps(record, indent=1, sort_keys=True))


def merge(base: Path, adapter: Path, folder: Path, probe: list[int]) -> float:
    """Write base and adapter as one bf16 model; how far the log-probabilities of a probe are from the unmerged one's, in nats.

    The comparison is in float32, before the rounding that bf16 is. Raises DataError when they differ.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    merged = load(base, adapter, "float32")
    plain: Any = AutoModelForCausalLM.from_pretrained(str(base), dtype=torch.float32)
    apart: Any = PeftModel.from_pretrained(plain, str(adapter)).to(merged.device).eval()
    ids = torch.tensor([probe], device=merged.device)
    with torch.inference_mode():
        differ = (torch.log_softmax(merged.model(ids).logits, -1) - torch.log_softmax(apart(ids).logits, -1)).abs().max().item()
    if not differ <= EQUAL:
        raise DataError(f"the merged model differs from the unmerged one by {differ:.2g} nats", where="train.also", mend="Look at the adapter's numbers.")
    merged.model.to(torch.bfloat16).save_pretrained(str(folder))
    for name in TOKENIZER:
        if (base / name).exists():
            shutil.copyfile(base / name, folder / name)
    return float(differ)
