"""The built-in source: the standard library's own docstrings as questions and answers, grouped by top-level module."""

from __future__ import annotations

import ast
import re
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from flywheel import store
from flywheel.config import sources as config
from tasks.sources.base import Raw, Reader, Rejected

PRIVATE = ("site-packages", "test", "idlelib", "lib2to3", "ensurepip", "turtledemo")


class DocsReader(Reader[config.Docs]):
    """The first paragraph of each public docstring answers what its object is or does."""

    def identity(self) -> str:
        """Of the modules themselves."""
        return store.sha256_text(*(part for name, path in _modules() for part in (name, store.sha256_file(path))))

    def raw(self) -> Iterator[Raw | Rejected]:
        """By module and line."""
        for module, path in _modules():
            try:
                tree = ast.parse(path.read_bytes())
            except SyntaxError:
                continue
            for name, line, kind, docstring in _documented(tree, module):
                answer = re.sub(r"\s+", " ", docstring.strip().split("\n\n")[0]).strip()
                if 40 <= len(answer) <= 500:
                    question = f"What is `{name}`?" if kind == "class" else f"What does `{name}` do?"
                    yield module, line, {"instruction": question, "output": answer, "group": module.split(".")[0], "slice": kind}


def _modules() -> Iterator[tuple[str, Path]]:
    """Public modules of the standard library, by name."""
    root = Path(sysconfig.get_path("stdlib"))
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        if parts[0] in PRIVATE or "tests" in parts or "test" in parts:
            continue
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name and not any(part.startswith("_") for part in name.split(".")):
            yield name, path


def _documented(tree: ast.Module, module: str) -> Iterator[tuple[str, int, str, str]]:
    """(qualified name, line, kind, docstring) of public functions, classes and methods."""

    def walk(body: list[ast.stmt], prefix: str, kind: str) -> Iterator[tuple[str, int, str, str]]:
        for node in body:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) or node.name.startswith("_"):
                continue
            name = f"{prefix}.{node.name}"
            docstring = ast.get_docstring(node)
            if docstring:
                yield name, node.lineno, "class" if isinstance(node, ast.ClassDef) else kind, docstring
            if isinstance(node, ast.ClassDef):
                yield from walk(node.body, name, "method")

    yield from walk(tree.body, module, "function")
