"""Every package that a stage's code can reach is locked for the image that the stage runs in: on a laptop one environment has them all, so nothing else tells."""

import ast
import re
import sys
from importlib.metadata import packages_distributions

import pytest
import yaml

from flywheel.settings import REPOSITORY

OWN = {path.name for path in REPOSITORY.iterdir() if (path / "__init__.py").exists()}
OPTIONAL = {"deepspeed", "liger_kernel"}  # requirements/gpu.txt
NOT_ASKED = {"data": {"rouge_score", "sacrebleu"}}  # its stages read what tasks.metrics knows of a figure, and count none


def path_of(module):
    base = REPOSITORY / module.replace(".", "/")
    return next((path for path in (base.with_suffix(".py"), base / "__init__.py") if path.exists()), None)


def imported(module):
    """What a module of ours imports, inside its functions too; not what only type checkers read."""
    tree = ast.parse(path_of(module).read_text())
    typing = {id(node) for test in ast.walk(tree) if isinstance(test, ast.If) and "TYPE_CHECKING" in ast.unparse(test.test) for node in ast.walk(test)}
    for node in (node for node in ast.walk(tree) if id(node) not in typing):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{name.name}" for name in node.names if path_of(f"{node.module}.{name.name}"))


def reached(stages):
    """The packages of others, each with a module of ours that imports it."""
    seen, left, found = set(), [f"tasks.{stage}" for stage in stages], {}
    while left:
        module = left.pop()
        if module in seen or path_of(module) is None:
            continue
        seen.add(module)
        for name in imported(module):
            package = name.partition(".")[0]
            if package in OWN:
                left.append(name)
            elif package not in sys.stdlib_module_names:
                found.setdefault(package, module)
    return found


def locked(family):
    """Normalised names of the distributions in an image's lock file, and torch, which has one of its own."""
    return {"torch"} | {
        name.lower().replace("_", "-") for name in re.findall(r"^([\w.-]+)(?:\[.*?\])?==", (REPOSITORY / f"requirements/{family}.txt").read_text(), re.M)
    }


@pytest.mark.parametrize("family", ["data", "train"])
def test_a_stage_finds_in_its_image_what_it_imports(family):
    stages = [name for name, stage in yaml.safe_load((REPOSITORY / "config" / "pods.yaml").read_text())["stages"].items() if stage["image"] == family]
    distributions = packages_distributions()
    found = reached(stages)
    missing = {
        package: module
        for package, module in found.items()
        if package not in OPTIONAL | NOT_ASKED.get(family, set())
        and not {name.lower().replace("_", "-").replace(".", "-") for name in distributions.get(package, [package])} & locked(family)
    }
    assert len(found) > 10 and not missing, f"add it to requirements/{family}.in, then `make lock`"
