"""A data set of the Hugging Face hub, or a folder that holds a copy of one; a folder needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from flywheel import manifest, store
from flywheel.config import sources as config
from flywheel.errors import ContractError, DataError, TransientError
from tasks.sources import forms
from tasks.sources.base import Raw, Reader, Rejected

CLIENTS = ("httpx", "httpx2", "requests", "aiohttp")  # what `datasets` and huggingface_hub have used


class HubReader(Reader[config.Hub]):
    """Streamed, so that a data set need not fit on the disk either."""

    def identity(self) -> str:
        """Of a folder, its files; of a hub id, the commit; with a `time`, what it lets through."""
        if self.conf.time:
            return super().identity()
        folder = self._folder
        return manifest.describe(folder, "").sha256 if folder else store.sha256_text(self.conf.dataset, self._commit())

    def raw(self) -> Iterator[Raw | Rejected]:
        """The rows of the split, numbered from 1."""
        where, rows = self.conf.address, self._rows()
        names = rows.column_names
        if names is not None:
            forms.check_columns(where, names, self.conf.columns)
        try:
            for number, row in enumerate(rows, 1):
                yield where, number, dict(row)
        except Exception as error:  # every builder has errors of its own
            raise _meaning(error, where) from error

    @property
    def _folder(self) -> Path | None:
        folder = Path(self.conf.dataset).expanduser()
        return folder if folder.is_dir() else None

    def _commit(self) -> str:
        """What the revision was at the interval's end."""
        from huggingface_hub import HfApi

        try:
            commits = HfApi().list_repo_commits(self.conf.dataset, repo_type="dataset", revision=self.conf.revision)
        except Exception as error:
            raise _meaning(error, self.conf.address) from error
        found = next((c.commit_id for c in commits if self.until is None or c.created_at <= self.until), None)
        if found is None:
            raise DataError(f"there was no commit before {self.until}", where=self.conf.address, mend="Leave it out of that night's config.")
        return str(found)

    def _rows(self) -> Any:
        import datasets

        conf, folder = self.conf, self._folder
        try:
            if folder and ((folder / "dataset_dict.json").exists() or (folder / "state.json").exists()):
                saved = datasets.load_from_disk(str(folder))
                return saved if isinstance(saved, datasets.Dataset) else saved[conf.split]
            where = {"path": str(folder)} if folder else {"path": conf.dataset, "revision": self._commit()}
            return datasets.load_dataset(**where, name=conf.config or None, split=conf.split, streaming=True)
        except (ContractError, TransientError, DataError):
            raise
        except Exception as error:
            raise _meaning(error, conf.address) from error


def _meaning(error: Exception, where: str) -> ContractError | DataError | TransientError:
    """What `datasets` and the hub's client may say, in our words."""
    from huggingface_hub.errors import HfHubHTTPError

    said = " ".join(str(error).split())[:300]
    status = error.response.status_code if isinstance(error, HfHubHTTPError) and error.response is not None else 0
    if isinstance(error, FileNotFoundError | KeyError) or status in (401, 403, 404):
        return ContractError(f"there is no such data set, split or revision ({said})", where=where, mend="Mend its name, or set HF_TOKEN for a private one.")
    if isinstance(error, HfHubHTTPError | ConnectionError | TimeoutError) or type(error).__module__.split(".")[0] in CLIENTS:
        return TransientError(f"the hub does not answer ({said})", where=where, mend="Retry, or name a folder that holds a copy.")
    return DataError(f"the data set cannot be read ({said})", where=where, mend="Mend `config` and `split`, or the data set's files.")
