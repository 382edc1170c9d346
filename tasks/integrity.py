"""What must hold of a challenger before its scores mean anything: its files, and that it was not trained on what it is asked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from flywheel.config.cleaning import Decontamination
from flywheel.records import Example
from tasks.overlap import Matcher, text_of
from tasks.suites import Item


def adapter_problem(folder: Path, base: Path) -> str:
    """Why an adapter cannot be used, naming the file; empty when it is whole, fits the base and has only finite numbers."""
    import torch
    from peft import PeftConfig, get_peft_model, get_peft_model_state_dict
    from safetensors import SafetensorError, safe_open
    from transformers import AutoConfig, AutoModelForCausalLM

    config_file, weights = folder / "adapter_config.json", folder / "adapter_model.safetensors"
    try:
        config = PeftConfig.from_pretrained(str(folder))
    except Exception as error:  # peft raises whatever its parser meets
        return f"{config_file.name} cannot be read ({type(error).__name__})"
    with torch.device("meta"):
        empty = get_peft_model(AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(str(base))), config)
    expected = {name: list(tensor.shape) for name, tensor in get_peft_model_state_dict(empty, save_embedding_layers=False).items()}
    try:
        with safe_open(str(weights), "pt") as file:
            names = set(file.keys())
            for name in sorted(expected):
                if name not in names:
                    return f"{weights.name} lacks {name}: it was cut off, or belongs to another base model"
                tensor = file.get_tensor(name)
                if list(tensor.shape) != expected[name]:
                    return f"{weights.name}: {name} has the shape {list(tensor.shape)}, the base model needs {expected[name]}"
                if not torch.isfinite(tensor).all():
                    return f"{weights.name}: {name} holds NaN or infinite numbers"
    except (SafetensorError, OSError) as error:
        return f"{weights.name} cannot be read: it was cut off or is missing ({type(error).__name__})"
    return ""


def contaminated(items: Sequence[Item], learned: set[str], records: Iterable[Example]) -> list[str]:
    """Ids of the items that were trained on: the same record, or one that overlaps it.

    `learned` are the ids that the adapter, or one it went on from, was trained on; `records` the texts of this turn's.
    """
    everything = list(records)
    texts = [text_of(record) for record in everything]
    matcher = Matcher(map(text_of, items), Decontamination())
    found = matcher.settle([matcher.match(range(len(texts)), [text.prompt for text in texts], [text.answer for text in texts])])
    seen = {overlap.example[:2] for overlap in found if everything[overlap.row].id in learned}
    return sorted(item.id for item in items if item.id in learned or text_of(item)[:2] in seen)
