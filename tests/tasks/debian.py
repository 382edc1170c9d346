"""Text that nobody here wrote: the Jargon File and FOLDOC, out of Debian's packages dict-jargon and dict-foldoc."""

from __future__ import annotations

import gzip
import re
import shutil
import subprocess
from pathlib import Path

DIGITS = {c: i for i, c in enumerate("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/")}
BOOKS = {
    "jargon": ("public domain", "published for anyone to use", "What does “{}” mean among hackers?"),
    "foldoc": ("GFDL-1.2-or-later", "published under a free licence", "What is “{}” in computing?"),
}


def fetch(folder: Path) -> str:
    """Download and unpack both packages; returns why not, or an empty string."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        return "this is no Debian machine"
    folder.mkdir(parents=True, exist_ok=True)
    for name in BOOKS:
        done = subprocess.run(["apt-get", "download", f"dict-{name}"], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            return f"apt-get download dict-{name}: {done.stderr.strip()[-200:]}"
        subprocess.run(["dpkg-deb", "-x", str(next(folder.glob(f"dict-{name}_*.deb"))), str(folder)], check=True)
    return ""


def records(folder: Path, book: str) -> list[dict[str, str]]:
    """One question and answer a headword; aliases of one entry are records of their own, as they are in the book."""
    home = folder / "usr" / "share" / "dictd"
    text = gzip.decompress((home / f"{book}.dict.dz").read_bytes())
    found = []
    for line in (home / f"{book}.index").read_text().splitlines():
        word, start, size = line.split("\t")
        offset = number(start)
        entry = text[offset : offset + number(size)].decode()
        body = "\n".join(part.strip() for part in entry.splitlines()[1:]).strip()
        field = re.match(r"<([a-z][a-z ]*)", body)
        if not word.startswith("00-database") and not word.startswith("00database"):
            found.append({"instruction": BOOKS[book][2].format(word), "output": body, "slice": field[1] if field else book})
    return found


def number(digits: str) -> int:
    """dictd's base 64."""
    value = 0
    for digit in digits:
        value = value * 64 + DIGITS[digit]
    return value
