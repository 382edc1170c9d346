"""Data set versions: what the flywheel has learned from, each known by its content.

A version's id is a hash of its records, whatever folder, order or run they came from. The index is one small JSON file a version,
`<store>/datasets/<id>.json`, written last and at once; the data itself stays where the stages wrote it, and in DVC.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from pydantic import BaseModel, ValidationError
from pydantic import Field as F

from flywheel import store
from flywheel.errors import ContractError, NotFound
from flywheel.manifest import Artifact
from flywheel.records import Example
from flywheel.settings import settings

FOLDER = "datasets"
SPLITS = ("train", "heldout", "reserve")


class Profile(BaseModel):
    """What two data sets are compared by, small enough to keep for ever."""

    records: int
    lengths: list[int] = F(description="Records by characters: the bin k holds those of 2^(k/2) up to 2^((k+1)/2)")
    words: dict[str, float] = F(description="Share of the commonest words among all words of a sample")
    slices: dict[str, int] = F(description="Records by slice")


class SourceCount(BaseModel):
    """A source, and what it gave to a version."""

    name: str
    licence: str
    consent: str
    records: int


class Version(BaseModel):
    """One data set version: train, heldout and reserve together."""

    id: str = F(description="SHA-256 over the records in canonical form, sorted")
    created: str
    until: str = F("", description="End of the run's data interval; empty for a run without one")
    run_dir: str
    records: dict[str, int] = F(description="By split")
    kinds: dict[str, int] = F(description="Supervised, preference and thumb records")
    slices: dict[str, int]
    sources: list[SourceCount]
    raw: Artifact = F(description="What ingest collected")
    content: dict[str, Artifact] = F(description="The clean records of each split")
    profile: Artifact
    card: Artifact
    report: Artifact
    tracked: str = F("", description="Folder of the .dvc files")
    reference: str = F("", description="Id of the version it was compared with")

    @property
    def moment(self) -> datetime:
        """The night it is of, or when it was made."""
        return _moment(self.until or self.created)

    def examples(self, *splits: str) -> Iterator[Example]:
        """Every record of some splits, or of all, one at a time. Raises ContractError when a file is missing or changed."""
        for artifact in (self.content[split] for split in splits or SPLITS):
            with open(artifact.fetch(settings().home / "cache"), "rb") as file:
                yield from map(Example.model_validate_json, file)


def identity(lines: Iterable[bytes]) -> str:
    """The id of the records on these lines; their order and which file they are in do not matter."""
    digests = sorted(hashlib.sha256(line).digest() for line in lines)
    return hashlib.sha256(b"".join(digests)).hexdigest()


def canonical(example: Example) -> bytes:
    """A record as it is hashed: a field that is added later, with its default, changes nothing."""
    return example.model_dump_json(exclude_defaults=True).encode()


def uri(version: str) -> str:
    """Where a version's entry lies."""
    return store.join(settings().store, FOLDER, f"{version}.json")


def write(version: Version) -> None:
    """Add a version to the index; from here on it is accepted."""
    store.write_bytes(uri(version.id), version.model_dump_json(indent=1).encode())


def read(version: str) -> Version | None:
    """The entry of an id, or None."""
    try:
        return Version.model_validate_json(store.read_bytes(uri(version)))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise ContractError("the entry cannot be read", where=uri(version), mend="Delete it; the next run of its `dataset` stage writes it again.") from error


def versions() -> list[Version]:
    """Every version, newest first."""
    names = [name.removesuffix(".json") for name in store.list_names(store.join(settings().store, FOLDER)) if name.endswith(".json")]
    return sorted(filter(None, map(read, names)), key=lambda v: v.moment, reverse=True)


def get(prefix: str) -> Version:
    """The version whose id begins so. Raises NotFound, or ContractError when several do."""
    found = [v for v in versions() if v.id.startswith(prefix)]
    if not found:
        raise NotFound("there is no such data set version", where=prefix, mend="`flywheel data versions` lists them.")
    if len(found) > 1:
        raise ContractError(f"{len(found)} data set versions begin so", where=prefix, mend="Write more of its id.")
    return found[0]


def reference_for(content: Mapping[str, Artifact], until: str) -> Version | None:
    """What a data set is compared with: the last version of an earlier night.

    One that was accepted before is compared with what it was then, so the same work gives the same result.
    """
    known = versions()
    hashes = {split: content[split].sha256 for split in SPLITS}
    same = next((v for v in known if {split: a.sha256 for split, a in v.content.items()} == hashes), None)
    if same:
        return read(same.reference) if same.reference else None
    return next((v for v in known if not until or v.moment < _moment(until)), None)


def reference_of(inputs: Mapping[str, Artifact]) -> str:
    """The id of the version a stage compared with, by its input's name; empty when there was none."""
    return next((name.removeprefix("reference.") for name in inputs if name.startswith("reference.")), "")


def _moment(text: str) -> datetime:
    parsed = datetime.fromisoformat(text)
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)
