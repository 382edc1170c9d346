"""The code digest of a stage: a hash of its module and of every project module it imports, transitively."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from flywheel.settings import REPOSITORY

ROOMS = ("flywheel", "tasks", "rag", "features")


def _file(module: str) -> Path | None:
    base = REPOSITORY.joinpath(*module.split("."))
    return next((p for p in (base.with_suffix(".py"), base / "__init__.py") if p.is_file()), None)


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement below a node, at any depth; an import stands in no expression."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield child
            yield from _statements(child)


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in _statements(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return {name for name in found if name.split(".")[0] in ROOMS}


@cache
def digest(module: str) -> str:
    """Hex SHA-256 over the sources that a module's behaviour hangs on, inside this project."""
    files: dict[str, Path] = {}
    todo = [module]
    while todo:
        name = todo.pop()
        path = _file(name)
        if path is None or name in files:
            continue
        files[name] = path
        todo.extend(_imports(path))
    sha = hashlib.sha256()
    for name in sorted(files):
        sha.update(name.encode() + b"\0" + files[name].read_bytes() + b"\0")
    return sha.hexdigest()
