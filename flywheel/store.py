"""The object store: a folder or any fsspec URL (`s3://bucket/prefix`).

Small things are written whole and appear at once: a temporary file and a rename on disk, one PUT on S3.
Keys below the store's root are kept relative in manifests, so a store can be moved or restored elsewhere.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from datetime import datetime
from functools import wraps
from pathlib import Path, PurePosixPath
from typing import ParamSpec, TypeVar

import fsspec

from flywheel.errors import ContractError, from_store_error
from flywheel.settings import settings

CHUNK = 1 << 20
P = ParamSpec("P")
R = TypeVar("R")


def is_local(uri: str) -> bool:
    """True for a plain path or file:// URL."""
    return "://" not in uri or uri.startswith("file://")


def local_path(uri: str) -> Path:
    """The path of a local URI."""
    return Path(uri.removeprefix("file://")).expanduser().absolute()


def join(base: str, *parts: str) -> str:
    """`base/part/part`, for folders and URLs alike."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def resolve(key: str) -> str:
    """A full URI for a key that a manifest holds; absolute URIs pass through."""
    return key if "://" in key or key.startswith("/") else join(settings().store, key)


def relative(uri: str) -> str:
    """The key of a URI below the store's root; other URIs pass through."""
    uri = str(local_path(uri)) if is_local(uri) else uri
    root = settings().store
    root = str(local_path(root)) if is_local(root) else root
    return uri[len(root) + 1 :] if uri.startswith(root.rstrip("/") + "/") else uri


def filesystem(uri: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """What opens an address, and the path within it. Raises ContractError for an address that nothing opens."""
    try:
        return fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise ContractError(f"cannot open this kind of address ({error})", where=uri, mend="Use a folder, s3://, gs:// or abfs://.") from error


def told(function: Callable[P, R]) -> Callable[P, R]:
    """What an object store's client raises, in our words."""

    @wraps(function)
    def call(*arguments: P.args, **options: P.kwargs) -> R:
        try:
            return function(*arguments, **options)
        except Exception as error:
            known = from_store_error(error, settings().store)
            if known is None:
                raise
            raise known from error

    return call


@told
def exists(uri: str) -> bool:
    """Whether a file or folder is there."""
    fs, path = filesystem(uri)
    return bool(fs.exists(path))


@told
def modified(uri: str) -> datetime:
    """When a file was last written. Raises FileNotFoundError when it is not there."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    found: datetime = fs.modified(path)
    return found


@told
def read_bytes(uri: str) -> bytes:
    """A whole file. Raises FileNotFoundError when it is not there."""
    fs, path = filesystem(uri)
    return bytes(fs.cat_file(path))


@told
def write_bytes(uri: str, data: bytes) -> None:
    """Write a whole file so that a reader sees either nothing or all of it."""
    if not is_local(uri):
        fs, key = filesystem(uri)
        fs.pipe_file(key, data)
        return
    path = local_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@told
def remove(uri: str) -> None:
    """Delete a file; nothing to do when it is not there."""
    fs, path = filesystem(uri)
    if fs.exists(path):
        fs.rm_file(path)


@told
def list_names(uri: str) -> list[str]:
    """Names directly below a folder, sorted; empty when the folder is not there."""
    fs, path = filesystem(uri)
    fs.invalidate_cache()
    try:
        return sorted(PurePosixPath(name.rstrip("/")).name for name in fs.ls(path, detail=False))
    except FileNotFoundError:
        return []


@told
def glob(pattern: str) -> list[str]:
    """Full URIs that match, sorted; a pattern without a star is itself."""
    if not any(mark in pattern for mark in "*?["):
        return [pattern]
    fs, path = filesystem(pattern)
    fs.invalidate_cache()
    return sorted(fs.unstrip_protocol(found) if not is_local(pattern) else str(found) for found in fs.glob(path))


@told
def upload(path: Path, uri: str) -> None:
    """Copy a local file or folder to a URI; nothing to do when it is already there."""
    if is_local(uri):
        target = local_path(uri)
        if target == path.absolute():
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, target)
        return
    fs, target_path = filesystem(uri)
    if path.is_dir():
        for file in sorted(p for p in path.rglob("*") if p.is_file()):
            fs.put_file(str(file), join(target_path, file.relative_to(path).as_posix()))
    else:
        fs.put_file(str(path), target_path)


@told
def download(uri: str, target: Path) -> Path:
    """A local path with the file's or folder's content: the original itself when it is local, else a copy at `target`."""
    if is_local(uri):
        path = local_path(uri)
        if not path.exists():
            raise FileNotFoundError(2, "No such file", str(path))
        return path
    fs, source = filesystem(uri)
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=target.parent)) / target.name
    fs.get(source, str(partial), recursive=bool(fs.isdir(source)))
    if target.is_dir():
        shutil.rmtree(target)
    os.replace(partial, target)
    partial.parent.rmdir()
    return target


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a local file."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_text(*parts: str) -> str:
    """Hex SHA-256 of strings, unambiguous about where each ends."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode()
        digest.update(len(raw).to_bytes(8, "big") + raw)
    return digest.hexdigest()
