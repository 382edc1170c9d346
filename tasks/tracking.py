"""Track a data set version with DVC, so that it can be pulled back anywhere: what was collected (raw), what is clean, what people curated.

The DVC project is `<store>/datasets` when the store is a folder, so that `dvc pull <id>/clean.dvc` works there; beside a remote store it
is `<home>/dvc`, and its .dvc files are copied into the store. One call takes all files, and one process at a time calls: DVC allows no more.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from flywheel import store
from flywheel.datasets import FOLDER
from flywheel.errors import TransientError
from flywheel.settings import settings

CONFIG = """[core]
    no_scm = True
    analytics = false
    check_update = false
    {default}
[cache]
    type = "reflink,hardlink,copy"
"""


def track(version: str, parts: Mapping[str, Mapping[str, Path]], remote: str) -> str:
    """Add the files (by part and name) and push them to the remote, if there is one; the key of the folder with the .dvc files.

    May be killed anywhere and called again. Raises TransientError when DVC or its remote fails.
    """
    root = settings().store
    project = store.local_path(store.join(root, FOLDER)) if store.is_local(root) else settings().home / "dvc"
    remote = remote or ("" if store.is_local(root) else store.join(root, "dvc"))
    project.mkdir(parents=True, exist_ok=True)
    with open(project / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (project / ".dvc").is_dir():
            _dvc(project, "init", "--no-scm", "--quiet")
        _configure(project, remote)
        folders = [_lay_out(project / version / part, files) for part, files in parts.items() if files]
        _dvc(project, "add", "--quiet", *(str(folder.relative_to(project)) for folder in folders))
        notes = [folder.with_name(f"{folder.name}.dvc") for folder in folders]
        if remote:
            _dvc(project, "push", "--quiet", *(str(note.relative_to(project)) for note in notes))
        for folder in folders:
            shutil.rmtree(folder)  # the content is in DVC's cache; `dvc checkout` brings it back
        for file in [project / ".dvc" / "config", *notes]:
            store.upload(file, store.join(root, FOLDER, file.relative_to(project).as_posix()))
    return store.join(FOLDER, version)


def _configure(project: Path, remote: str) -> None:
    text = CONFIG.format(default="remote = store" if remote else "")
    if remote:
        text += f"['remote \"store\"']\n    url = {store.local_path(remote) if store.is_local(remote) else remote}\n"
    store.write_bytes(str(project / ".dvc" / "config"), text.encode())


def _lay_out(folder: Path, files: Mapping[str, Path]) -> Path:
    if folder.exists():
        shutil.rmtree(folder)  # an attempt before this one was killed
    folder.mkdir(parents=True)
    for name, path in files.items():
        try:
            os.link(path, folder / name)
        except OSError:  # another file system
            shutil.copyfile(path, folder / name)
    return folder


def _dvc(project: Path, *arguments: str) -> None:
    own = {f"DVC_{name}_DIR": str(project / ".dvc" / "tmp" / name.lower()) for name in ("SITE_CACHE", "GLOBAL_CONFIG", "SYSTEM_CONFIG")}
    done = subprocess.run([sys.executable, "-m", "dvc", *arguments], cwd=project, env={**os.environ, **own}, capture_output=True, text=True)
    if done.returncode:
        said = [line for line in done.stderr.splitlines() if line.strip()] or [f"it ended with {done.returncode}"]
        where = f"dvc {arguments[0]} in {project}"
        raise TransientError(said[0].removeprefix("ERROR: "), where=where, mend="Look at the disk and at dataset.remote; a retry goes on from here.")
