"""The form under *Trigger*: what a person may choose for one run, and which setting of the config each choice changes.

What may stay empty allows null: Airflow's form does not let anyone trigger while another field is empty.
"""

from __future__ import annotations

import json
from typing import Any

from airflow.sdk import Param

from flywheel.settings import settings

AS_CONFIG = "config"  # the choice that changes nothing
SETS = {  # the param: the setting that it changes
    "sources": "ingest.only",
    "base_model": "model.base",
    "method": "train.method",
    "objective": "train.objective",
    "budget": "train.weekly_money",
    "approval": "gate.approval",
}


def config() -> dict[str, Param]:
    """Which file."""
    text = "A path or URL of a YAML file; empty: the installation's own"
    return {"config": Param(None, type=["null", "string"], title="Config", description=text)}


def changes(example: str) -> dict[str, Param]:
    """Single settings, as `--set` takes them; the last words, after every choice above them."""
    pattern = r"^[a-z_]+(\.[a-z_]+)*=.*"
    text = f"One `section.key=value` a line, e.g. {example}"
    return {"set": Param(None, type=["null", "array"], items={"type": "string", "pattern": pattern}, title="Changes", description=text)}


def turn() -> dict[str, Param]:
    """Everything that a turn asks."""
    name = r"^[A-Za-z0-9@_.:/+-]*$"
    return {
        **config(),
        "sources": Param(
            None, type=["null", "array"], items={"type": "string", "minLength": 1}, title="Sources", section="Data",
            description="Names of the sources to read, one a line; empty: all that the config names",
        ),
        "base_model": Param(
            None, type=["null", "string"], pattern=name, title="Base model", section="Training",
            description="A folder, s3://…, models:/name@alias or a hub id; empty: the config's",
        ),
        "method": Param(
            AS_CONFIG, type="string", enum=[AS_CONFIG, "lora", "qlora"], title="Method", section="Training",
            values_display={AS_CONFIG: "as the config says", "lora": "LoRA", "qlora": "QLoRA: the base in 4 bits"},
        ),
        "objective": Param(
            AS_CONFIG, type="string", enum=[AS_CONFIG, "sft", "dpo", "kto"], title="Objective", section="Training",
            values_display={AS_CONFIG: "as the config says", "sft": "answers", "dpo": "better and worse answers", "kto": "liked and disliked answers"},
        ),
        "budget": Param(
            None, type=["null", "number"], minimum=0, title="Budget", section="Training",
            description=f"What this ISO week may cost in {settings().currency}, this run included; spent, training is skipped or stops after a checkpoint",
        ),
        "rollout": Param(
            "auto", type="string", enum=["auto", "yes", "no"], title="Roll out", section="Release",
            values_display={"auto": "what the gate promotes, except in a backfill", "yes": "what the gate promotes", "no": "register only"},
        ),
        "approval": Param(
            AS_CONFIG, type="string", enum=[AS_CONFIG, "close", "always"], title="Ask a person", section="Release",
            values_display={AS_CONFIG: "as the config says", "close": "when the gate was close", "always": "always"},
            description="A form can ask for more care than the config, not for less",
        ),
        **changes("train.epochs=2"),
    }  # fmt: skip


def assignments(params: Any) -> list[str]:
    """The choices of a run as `section.key=value`, the free changes last."""
    chosen = {path: params.get(name) for name, path in SETS.items()}
    found = [f"{path}={json.dumps(value)}" for path, value in chosen.items() if value not in (None, "", [], AS_CONFIG)]
    found += [
        f"{name}={json.dumps(value)}" for name, value in params.items() if "." in name and value is not None
    ]  # a field that is a setting, e.g. operate.version
    return [*found, *(params.get("set") or [])]
