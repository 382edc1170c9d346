"""What of the object store may go: runs, checkpoints, data versions and orphans that are old enough and that nothing living needs.

Living is a version that may still be served: neither refused nor retired, or served now. It needs its own files, those of every stage
of its run, whatever those were made from, its data set, and all of that of the versions it descends from. What is held, young or published
feedback is needed as well. A manifest is never deleted: it is the history of a run.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, get_args

import sqlalchemy as sa
import yaml
from pydantic import ValidationError

from flywheel import copying, datasets, ledger, manifest, registry, store
from flywheel.config import Housekeep
from flywheel.errors import ContractError
from flywheel.ledger import holds, schema
from flywheel.manifest import Manifest
from flywheel.registry import Version
from flywheel.settings import settings

OBJECTS = ("datasets/.dvc/cache/files/md5", "dvc/files/md5")  # of DVC: in a folder, and beside a remote store


@dataclass(frozen=True)
class Known:
    """What the registry and the ledger know."""

    versions: list[Version]
    served: set[int | None]  # champion, challenger, previous
    held: dict[str, set[str]]  # names by kind
    segments: set[str]  # those whose file should be there


def known() -> Known:
    """Ask both. Raises TransientError when one is away: then nothing may go."""
    now = registry.desired()
    with ledger.transaction() as db:
        there = sa.select(schema.segments.c.name).where(schema.segments.c.archived.is_(None))
        held = {kind: holds.names(db, kind) for kind in get_args(schema.Kind)}
        return Known(registry.versions(), {now.champion, now.challenger, registry.alias("previous")}, held, set(db.execute(there).scalars()))


@dataclass
class Plan:
    """What would be deleted, by reason, and how large the store is, by area."""

    remove: dict[str, str] = field(default_factory=dict)  # key below the store's root: why
    sizes: dict[str, int] = field(default_factory=dict)
    needed: set[str] = field(default_factory=set)

    def areas(self) -> dict[str, dict[str, int]]:
        """Files, bytes, and what of them is needed and may go, by the first part of the key."""
        found: dict[str, dict[str, int]] = {}
        for key, size in self.sizes.items():
            area = found.setdefault(key.split("/")[0], dict.fromkeys(("files", "bytes", "needed", "removable"), 0))
            area["files"] += 1
            area["bytes"] += size
            area["needed"] += size if _below(key, self.needed) else 0
            area["removable"] += size if key in self.remove else 0
        return dict(sorted(found.items(), key=lambda pair: -pair[1]["bytes"]))


def plan(conf: Housekeep, now: datetime, state: Known) -> Plan:
    """Look at the whole store, change nothing."""
    root = settings().store
    files = copying.listing(root)
    found = Plan(sizes={key: int(info["size"]) for key, info in files.items()})
    written = {key: _moment(info, now) for key, info in files.items()}
    manifests = _manifests(files)
    found.needed = needed(manifests, files, written, conf, now, state)
    _old_data_sets(found, files, conf, now)
    _old_runs(found, files, written, manifests, conf, now)
    _orphans(found, files, written, conf, now, state)
    return found


def needed(manifests: dict[str, Manifest], files: Iterable[str], written: dict[str, datetime], conf: Housekeep, now: datetime, state: Known) -> set[str]:
    """Keys of files and folders that must stay."""
    kept: set[str] = set()
    living = _family({v.version: v for v in state.versions}, state)
    dirs = {v.run_dir for v in living}
    runs = dirs | {run for run in _runs(files) if run.removeprefix("runs/") in state.held["run"]}
    kept |= {run for run in runs if run.removeprefix("runs/") in state.held["run"]}  # a held run stays whole
    young = _age(conf.run_days, now)
    runs |= {run for run, moment in _newest(files, written).items() if young is None or moment >= young}
    for version in living:
        kept |= {a.uri for a in (version.adapter, version.package, version.trained_ids, version.suites)}
    contents = {m.outputs["train"].sha256 for m in manifests.values() if m.stage == "clean" and m.run_dir in dirs and "train" in m.outputs}
    for key, found in manifests.items():
        if found.run_dir in runs:
            kept |= _named_by(found, key)
    kept |= set(_published())
    entries = datasets.versions()
    for entry in entries:
        of_living = entry.run_dir in dirs or entry.content["train"].sha256 in contents
        late = _age(conf.dataset_days, now)
        if of_living or entry is entries[0] or late is None or entry.moment >= late or any(entry.id.startswith(h) for h in state.held["dataset"]):
            kept |= {a.uri for a in (*entry.content.values(), entry.raw, entry.profile, entry.card, entry.report)}
            kept |= {f"{datasets.FOLDER}/{entry.id}.json", *([entry.tracked] if entry.tracked else [])}
    return {store.relative(store.resolve(key)) for key in kept}


def _family(known: dict[int, Version], state: Known) -> list[Version]:
    """The living versions and those they descend from."""
    held = state.held["version"]
    todo = [v for v in known.values() if (v.verdict != "refuse" and not v.retired) or v.version in state.served or str(v.version) in held]
    found: dict[int, Version] = {}
    while todo:
        version = todo.pop()
        if version.version not in found:
            found[version.version] = version
            todo += [known[parent] for parent in (version.parent,) if parent in known]
    return list(found.values())


def _named_by(found: Manifest, key: str) -> set[str]:
    """What a manifest reads and writes, and the one it repeats."""
    return {a.uri for a in (*found.inputs.values(), *found.outputs.values())} | {key} | ({found.cached_from} if found.cached_from else set())


def _published() -> Iterator[str]:
    """The files of every published batch: each later turn reads them."""
    folder = store.join(settings().store, ledger.BATCHES)
    for name in store.list_names(folder):
        told = json.loads(store.read_bytes(store.join(folder, name)))
        yield from (file["uri"] for file in (told["examples"], *told.get("copies", {}).values()))


def _manifests(files: Iterable[str]) -> dict[str, Manifest]:
    found = {}
    for key in files:
        if key.startswith("runs/") and key.endswith("/manifest.json"):
            try:
                found[key] = manifest.read(store.join(settings().store, key))
            except (ContractError, ValidationError):
                continue  # of another version of the code: its run's files are judged by their age alone
    return found


def _old_runs(found: Plan, files: Iterable[str], written: dict[str, datetime], manifests: dict[str, Manifest], conf: Housekeep, now: datetime) -> None:
    """Files of old runs, and checkpoints of trainings that have ended."""
    newest, old, stale = _newest(files, written), _age(conf.run_days, now), _age(conf.checkpoint_days, now)
    for key in files:
        run = _run_of(key)
        if not run or key.endswith("/manifest.json") or _below(key, found.needed):
            continue
        if old and newest[run] < old:
            found.remove[key] = "run"
        elif stale and "/checkpoints/" in key and written[key] < stale and f"{key.split('/checkpoints/')[0]}/manifest.json" in manifests:
            found.remove[key] = "checkpoint"


def _old_data_sets(found: Plan, files: Iterable[str], conf: Housekeep, now: datetime) -> None:
    """Entries, and DVC's notes, of data sets that nobody needs; their records go with their runs."""
    if conf.dataset_days is None:
        return
    for key in files:
        parts = key.split("/")
        if parts[0] == datasets.FOLDER and parts[1] != ".dvc" and len(parts[1].removesuffix(".json")) == 64 and not _below(key, found.needed):
            found.remove[key] = "data set"


def _orphans(found: Plan, files: dict[str, Any], written: dict[str, datetime], conf: Housekeep, now: datetime, state: Known) -> None:
    """What nothing points at: objects of DVC, rewritten examples, segments of nobody, cached work whose files are gone, half-written files."""
    limit = _age(conf.orphan_days, now)
    if limit is None:
        return
    known = {f"{ledger.SEGMENTS}/{name}" for name in state.segments}
    named = set(_published())
    tracked = _tracked(found, files)
    for key in files:
        if written[key] >= limit or _below(key, found.needed) or key in found.remove:
            continue
        name = key.rsplit("/", 1)[-1]
        lost = (
            (key.startswith("feedback/examples/") and key not in named)
            or (key.startswith(f"{ledger.SEGMENTS}/") and key not in known)
            or (key.startswith("cache/") and _dangles(key, files, found))
            or (tracked is not None and key.startswith(OBJECTS) and _digest(key) not in tracked)
            or (name.startswith(".") and ".json." in name and not key.startswith("datasets/.dvc"))
        )
        if lost:
            found.remove[key] = "orphan"


def _dangles(key: str, files: dict[str, Any], found: Plan) -> bool:
    """Whether cached work can no longer be used: its manifest, or a file that names, is gone or goes. Scores are used by whoever asks the same."""
    if key.startswith("cache/scores/"):
        return True  # old ones: whoever asks again counts again
    try:
        return str(json.loads(store.read_bytes(store.join(settings().store, key)))["manifest"]) not in files
    except (ValueError, KeyError, TypeError):
        return True


def _tracked(found: Plan, files: Iterable[str]) -> set[str] | None:
    """The MD5 of every object that a .dvc file names, itself or through its listing; None when one cannot be read: then none may go."""
    named: set[str] = set()
    for key in files:
        if key.startswith(f"{datasets.FOLDER}/") and key.endswith(".dvc") and key not in found.remove:
            try:
                note = yaml.safe_load(store.read_bytes(store.join(settings().store, key)))
                for out in note["outs"]:
                    named.add(out["md5"])
                    if out["md5"].endswith(".dir"):
                        place = next(o for o in (f"{p}/{out['md5'][:2]}/{out['md5'][2:]}" for p in OBJECTS) if o in files)
                        named |= {entry["md5"] for entry in json.loads(store.read_bytes(store.join(settings().store, place)))}
            except (ValueError, KeyError, TypeError, StopIteration, yaml.YAMLError):
                return None
    return named


def _digest(key: str) -> str:
    head, tail = key.split("/")[-2:]
    return head + tail


def _below(key: str, kept: set[str]) -> bool:
    """Whether a key is kept, itself or as part of a folder that is."""
    while key:
        if key in kept:
            return True
        key = key.rpartition("/")[0]
    return False


def _run_of(key: str) -> str:
    """`runs/<dag>/<run>` of a file, or nothing."""
    parts = key.split("/")
    return "/".join(parts[:3]) if parts[0] == "runs" and len(parts) > 3 else ""


def _runs(files: Iterable[str]) -> set[str]:
    return {run for run in map(_run_of, files) if run}


def _newest(files: Iterable[str], written: dict[str, datetime]) -> dict[str, datetime]:
    """When each run last wrote something."""
    found: dict[str, datetime] = {}
    for key in files:
        if run := _run_of(key):
            found[run] = max(written[key], found.get(run, written[key]))
    return found


def _age(days: float | None, now: datetime) -> datetime | None:
    """The moment before which something is old; None: nothing ever is."""
    return None if days is None else now - timedelta(days=days)


def _moment(info: dict[str, Any], now: datetime) -> datetime:
    """When a file was last written; one whose store does not say is new."""
    value = info.get("mtime") or info.get("LastModified") or info.get("updated") or info.get("last_modified") or now
    if isinstance(value, int | float):
        return datetime.fromtimestamp(value, UTC)
    return value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
