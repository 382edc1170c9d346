"""Manifests: the record a stage writes last. A manifest means: complete.

It lies at `<run-dir>/<stage>/manifest.json`; the outputs it names lie in `<run-dir>/<stage>/attempt-N/`.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flywheel import store
from flywheel.errors import ContractError

SCHEMA_VERSION = 1


class Artifact(BaseModel):
    """One file or folder that a stage read or wrote."""

    model_config = ConfigDict(extra="forbid")

    uri: str = Field(description="Key below the store's root, or a full URI")
    sha256: str = Field(description="Of the file; of the sorted (name, sha256) pairs for a folder")
    bytes: int = Field(ge=0)
    rows: int | None = None
    files: dict[str, str] | None = Field(None, description="For a folder: relative name to SHA-256")

    @property
    def location(self) -> str:
        """The full URI."""
        return store.resolve(self.uri)

    def fetch(self, cache: Path) -> Path:
        """A local path with this content, verified against its checksum.

        Raises ContractError naming the file when a byte differs or a file is missing.
        """
        try:
            path = store.download(self.location, cache / self.sha256[:16] / Path(self.uri).name)
        except FileNotFoundError as error:
            raise ContractError("the file is missing", where=self.location, mend="Run the stage that writes it again.") from error
        self.verify(path)
        return path

    def verify(self, path: Path) -> None:
        """Raise ContractError, naming the first file whose bytes are not the recorded ones."""
        found = describe(path, self.uri)
        if found.sha256 == self.sha256:
            return
        where = self.location
        if self.files is not None and found.files is not None:
            bad = next((name for name in {**self.files, **found.files} if self.files.get(name) != found.files.get(name)), "")
            where = store.join(where, bad)
        raise ContractError("the content is not what the manifest recorded", where=where, mend="It was changed after it was written: run its stage again.")


def describe(path: Path, uri: str, rows: int | None = None) -> Artifact:
    """Checksum and size of a local file or folder."""
    if path.is_dir():
        names = sorted(p.relative_to(path).as_posix() for p in path.rglob("*") if p.is_file())
        files = {name: store.sha256_file(path / name) for name in names}
        total = sum((path / name).stat().st_size for name in names)
        return Artifact(uri=uri, sha256=store.sha256_text(*(f"{n}\0{s}" for n, s in files.items())), bytes=total, rows=rows, files=files)
    return Artifact(uri=uri, sha256=store.sha256_file(path), bytes=path.stat().st_size, rows=rows)


def of_text(uri: str, text: str) -> Artifact:
    """An input known by what was read from it, whatever way the file writes it."""
    return Artifact(uri=uri, sha256=store.sha256_text(text), bytes=len(text.encode()))


class Cost(BaseModel):
    """What a stage used. Money is what the settings' prices make of it."""

    cpu_seconds: float = 0.0
    gpu_seconds: float = 0.0
    wall_seconds: float = 0.0
    money: float = 0.0
    currency: str = "USD"

    def plus(self, other: Cost) -> Cost:
        """The sum, in this one's currency."""
        totals = {key: round(getattr(self, key) + getattr(other, key), 6) for key in ("cpu_seconds", "gpu_seconds", "wall_seconds", "money")}
        return Cost(**totals, currency=self.currency)


class Manifest(BaseModel):
    """What one stage of one run did."""

    model_config = ConfigDict(extra="forbid")

    schema_version: int = SCHEMA_VERSION
    stage: str
    run_dir: str = Field(description="The run this belongs to, as a key below the store's root")
    attempt: int = Field(ge=1)
    cache_key: str
    outcome: Literal["done", "skipped"] = "done"
    reason: str = Field("", description="Why it was skipped")
    inputs: dict[str, Artifact] = {}
    outputs: dict[str, Artifact] = {}
    params: dict[str, Any] = Field({}, description="The stage's resolved config")
    metrics: dict[str, float | int | str | bool | None] = {}
    cost: Cost = Cost()
    code_digest: str = ""
    image: str = ""
    started: datetime
    ended: datetime
    cached_from: str = Field("", description="Manifest this one repeats, when the work was found done already")


def manifest_uri(run_dir: str, stage: str) -> str:
    """Where a stage's manifest lies: a pure function of the run and the stage."""
    return store.join(run_dir, stage, "manifest.json")


def run_dir(dag_id: str, run_id: str, root: str) -> str:
    """Where a run's outputs lie: a pure function of store, DAG id and run id.

    Run ids hold ':' and '+'; other characters than letters, digits, '-', '_' and '.' become '_'.
    """
    clean = "".join(c if c.isascii() and (c.isalnum() or c in "-_.") else "_" for c in run_id)
    return store.join(root, "runs", dag_id, clean)


def write(manifest: Manifest, run: str) -> str:
    """Write a manifest in one step and return its URI."""
    uri = manifest_uri(run, manifest.stage)
    store.write_bytes(uri, manifest.model_dump_json(indent=1).encode())
    return uri


def read(uri: str) -> Manifest:
    """Read and validate a manifest. Raises ContractError when it is missing or malformed."""
    try:
        raw = json.loads(store.read_bytes(uri))
        if not isinstance(raw, dict) or raw.get("schema_version") != SCHEMA_VERSION:
            version = raw.get("schema_version") if isinstance(raw, dict) else None
            raise ContractError(f"manifest schema {version}, expected {SCHEMA_VERSION}", where=uri, mend="Run that stage again with this version of the code.")
        return Manifest.model_validate(raw)
    except FileNotFoundError as error:
        raise ContractError("the manifest is missing: the stage before has not finished", where=uri, mend="Run that stage first.") from error
    except (ValidationError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ContractError("the manifest is malformed", where=uri, mend="Delete it and run that stage again.") from error


def read_for(run: str, stage: str) -> Manifest:
    """A stage's manifest, checked to belong to this run and stage."""
    uri = manifest_uri(run, stage)
    manifest = read(uri)
    if manifest.stage != stage or manifest.run_dir != store.relative(run):
        raise ContractError(f"the manifest is of {manifest.stage} in {manifest.run_dir}", where=uri, mend="Delete it and run the stage again.")
    return manifest
