"""What can run where; the table in docs/training.md is made here: `UPDATE_GOLDEN=1` writes it anew after a wanted change."""

import os

import pytest

from flywheel import config
from flywheel.config import Train
from flywheel.settings import REPOSITORY
from tasks.training.machine import Machine

LAPTOP, SERVER = Machine(), Machine(gpus=8, gpu_bf16=True)
RECIPES = sorted((REPOSITORY / "config" / "train").glob("*.yaml"))
BACKENDS = Train.model_fields["backend"].annotation.__args__
DOC = REPOSITORY / "docs" / "training.md"
MARKS = ("<!-- table: made by tests/tasks/training/test_machine.py -->\n", "<!-- end of table -->\n")


def table() -> str:
    lines = ["| recipe | precision | " + " | ".join(BACKENDS) + " |", "|---|---|" + "---|" * len(BACKENDS)]
    reasons: list[str] = []

    def cell(recipe: Train, backend: str, precision: str) -> str:
        changes = {"backend": backend, "processes": 1 if backend == "single" else 2, "precision": precision, "device": "auto"}
        here, there = (machine.refusal(recipe.model_copy(update=changes)) for machine in (LAPTOP, SERVER))
        if there:
            reasons.extend([there[1]] if there[1] not in reasons else [])
            return f"refused ({reasons.index(there[1]) + 1})"
        return "needs GPU" if here else "yes"

    for path in RECIPES:
        recipe = config.load(str(path)).train
        for precision in ("bfloat16", "float32"):
            lines.append(f"| {path.stem} | {precision} | " + " | ".join(cell(recipe, b, precision) for b in BACKENDS) + " |")
    return "\n".join([*lines, "", *(f"{i}. {reason}" for i, reason in enumerate(reasons, 1))]) + "\n"


def test_the_table_in_the_docs_is_what_the_rules_say():
    before, rest = DOC.read_text().split(MARKS[0])
    old, after = rest.split(MARKS[1])
    if os.environ.get("UPDATE_GOLDEN"):
        DOC.write_text(before + MARKS[0] + table() + MARKS[1] + after)
        old = table()
    assert old == table()


def test_every_recipe_opens_with_its_command_and_is_one_that_runs_here_or_on_a_gpu():
    assert {"lora", "qlora", "dpo", "kto"} <= {path.stem for path in RECIPES}
    for path in RECIPES:
        assert f"python -m tasks.train --config config/train/{path.name}" in path.read_text().splitlines()[0]
        assert SERVER.refusal(config.load(str(path)).train) is None


@pytest.mark.parametrize(
    "machine, changes, setting",
    [
        (LAPTOP, {"device": "cuda"}, "device"),
        (SERVER, {"processes": 2}, "backend"),
        (SERVER, {"backend": "ddp"}, "processes"),
        (Machine(gpus=1, gpu_bf16=True), {"backend": "ddp", "processes": 2}, "processes"),
        (Machine(nodes=2), {}, "backend"),
        (Machine(deepspeed=False), {"backend": "zero2", "processes": 2}, "backend"),
        (Machine(prefix="/home/my models"), {"backend": "zero2", "processes": 2}, "backend"),
        (LAPTOP, {"backend": "zero3-offload", "processes": 2}, "backend"),
        (SERVER, {"backend": "zero3", "processes": 2, "method": "qlora"}, "backend"),
        (Machine(bitsandbytes=False), {"method": "qlora"}, "method"),
        (Machine(gpus=1), {"precision": "bfloat16"}, "precision"),
        (SERVER, {"backend": "fsdp2", "processes": 2, "gradient_checkpointing": "on"}, "gradient_checkpointing"),
        (SERVER, {"backend": "ddp", "processes": 2, "compile": True}, "compile"),
    ],
)
def test_what_cannot_be_is_refused_by_the_setting_s_name(machine, changes, setting):
    found = machine.refusal(Train(**changes))
    assert found is not None and found[0] == setting and found[1] and found[2].endswith(".")


def test_precision_and_device_follow_the_machine():
    assert (LAPTOP.device(Train()), LAPTOP.precision(Train())) == ("cpu", "bfloat16")
    assert (SERVER.device(Train()), Machine(gpus=1).precision(Train())) == ("cuda", "float32")
    assert SERVER.device(Train(device="cpu")) == "cpu"
    assert Machine(cpu_bf16=False).precision(Train()) == "float32" and Machine(cpu_bf16=False).precision(Train(precision="bfloat16")) == "bfloat16"
