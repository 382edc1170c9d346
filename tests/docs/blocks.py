"""The shell blocks of every page, as commands."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SHELL = ("sh", "bash", "shell", "console")


@dataclass(frozen=True)
class Command:
    """One command: a line, with what it continues on, or a here-document with what is in it."""

    page: str
    text: str

    @property
    def line(self) -> str:
        """Its first line, without a comment."""
        return re.split(r"\s+# ", self.text.splitlines()[0])[0].strip()


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and text of each fenced block."""
    return [(m[2], m[3]) for m in re.finditer(r"^( *)```(\w*)\n(.*?)^\1```", page.read_text(), re.S | re.M)]


def commands(page: Path) -> list[Command]:
    """Every command of a page's shell blocks, in order."""
    found = []
    for language, text in blocks(page):
        if language in SHELL:
            found += [Command(page.relative_to(ROOT).as_posix(), part) for part in split(text)]
    return found


def split(text: str) -> list[str]:
    """A block's commands. Lines belong together after a backslash, a pipe or `(`, up to the end of a here-document, and within braces."""
    found: list[str] = []
    until, depth = "", 0
    going = False
    for line in text.splitlines():
        if not line.strip() or (line.startswith("#") and not going):
            continue
        if going or until or depth:
            found[-1] += f"\n{line}"
        else:
            found.append(line)
        if until:
            until = "" if line.strip() == until else until
            continue
        bare = re.sub(r"'[^']*'|\"[^\"]*\"", "", line)
        depth = max(0, depth + bare.count("{ ") + (bare.rstrip().endswith("{")) - (1 if bare.strip().startswith("}") else 0) - bare.count("; }"))
        going = line.rstrip().endswith(("\\", "|"))
        if opened := re.search(r"<<-?\s*[\"']?(\w+)", line):
            until = opened[1]
    return found
