"""Copy whole folders between object stores, every file by its SHA-256; what a backup and a restore are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from flywheel.errors import ContractError, TransientError
from flywheel.store import CHUNK, filesystem, is_local, join, local_path, told

THREADS = 8
PASSES = 5
STAMPS = ("size", "mtime", "ETag", "LastModified", "updated", "last_modified")  # whichever of them this kind of store gives


@dataclass(frozen=True)
class File:
    """One file of a copy: its name below the folder, with slashes."""

    name: str
    bytes: int
    sha256: str


@told
def listing(uri: str) -> dict[str, dict[str, Any]]:
    """Every file below a folder, by its name in it; empty when the folder is not there."""
    fs, root = filesystem(uri)
    fs.invalidate_cache()
    root = root.rstrip("/")
    return {path[len(root) + 1 :]: info for path, info in sorted(fs.find(root, detail=True).items()) if info["type"] == "file"}


@told
def digest(uri: str) -> File:
    """A file's size and SHA-256; its name is left empty."""
    fs, path = filesystem(uri)
    return _read(fs, path, None)


@told
def copy(source: str, target: str) -> File:
    """Copy one file; the size and the SHA-256 of what was read, which is what was written. Raises FileNotFoundError when it is not there."""
    (here, path), (there, to) = filesystem(source), filesystem(target)
    if is_local(target):
        local_path(target).parent.mkdir(parents=True, exist_ok=True)
    with there.open(to, "wb") as written:
        return _read(here, path, written)


def _read(fs: Any, path: str, into: Any) -> File:
    digest, size = hashlib.sha256(), 0
    with fs.open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            size += len(chunk)
            if into is not None:
                into.write(chunk)
    return File("", size, digest.hexdigest())


def copy_tree(source: str, target: str) -> list[File]:
    """Copy a folder that others go on writing to: what is new, changed or gone after a pass is looked at in another one.

    A file that only points at others is written after them and removed before them: once a pass finds nothing gone, whatever was copied
    has what it points at beside it. Raises TransientError when the folder does not come to rest.
    """
    copied: dict[str, tuple[Any, File]] = {}
    for _ in range(PASSES):
        found = {name: tuple(str(info.get(stamp)) for stamp in STAMPS) for name, info in listing(source).items()}
        wanted = [name for name, stamp in found.items() if name not in copied or copied[name][0] != stamp]
        with ThreadPoolExecutor(THREADS) as pool:
            done = dict(zip(wanted, pool.map(lambda name: _copy_or_none(join(source, name), join(target, name)), wanted), strict=True))
        gone = [name for name in [*copied, *wanted] if name not in found or done.get(name, True) is None]
        copied |= {name: (found[name], file) for name, file in done.items() if file}
        for name in gone:
            copied.pop(name, None)
        if not gone:
            return [File(name, file.bytes, file.sha256) for name, (_, file) in sorted(copied.items())]
    raise TransientError("files vanish faster than they are copied", where=source, mend="Wait until housekeeping has ended, then start again.")


def _copy_or_none(source: str, target: str) -> File | None:
    try:
        return copy(source, target)
    except FileNotFoundError:
        return None


def bring(files: Iterable[File], source: str, target: str) -> None:
    """Copy these files, each checked on the way. Raises ContractError naming one whose content is not what was recorded."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda file: _bring(file, source, target), files))


def verify(files: Iterable[File], source: str) -> None:
    """Read these files and compare; raises what `bring` raises."""
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda file: _same(file, digest(join(source, file.name)), join(source, file.name)), files))


def _bring(file: File, source: str, target: str) -> None:
    _same(file, copy(join(source, file.name), join(target, file.name)), join(source, file.name))


def _same(wanted: File, found: File, where: str) -> None:
    if found.sha256 != wanted.sha256:
        raise ContractError("its content is not what the backup recorded", where=where, mend="It was changed or damaged: take an earlier backup.")
