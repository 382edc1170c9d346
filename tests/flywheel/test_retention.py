"""What may go, and what never may: any store that Hypothesis thinks of keeps all that its living versions rest on."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as many
from hypothesis import strategies as st

from flywheel import datasets, manifest, retention, store
from flywheel.config import Housekeep
from flywheel.manifest import Artifact, Manifest
from flywheel.registry import Version
from flywheel.settings import settings

NOW = datetime(2026, 11, 27, tzinfo=UTC)
STAGES = ("ingest", "clean", "tokenize", "train")
CONF = Housekeep(run_days=30, checkpoint_days=7, dataset_days=60, orphan_days=7)


class Store:
    """Runs, data sets and versions in an empty folder, each as old as is wanted."""

    def __init__(self, home):
        self.root, self.versions = home / "store", []

    def file(self, key, text="x", days=0.0):
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        moment = (NOW - timedelta(days=days)).timestamp()
        os.utime(path, (moment, moment))
        return Artifact(uri=key, sha256=store.sha256_text(key + text), bytes=len(text))

    def run(self, name, days, of=None):
        """A run; one that is `of` another found all of its work done by it."""
        before: dict[str, Artifact] = {}
        for stage in STAGES:
            folder = f"runs/flywheel/{name}/{stage}"
            if of is None:
                parts = datasets.SPLITS if stage == "clean" else (stage,)
                output = {part: self.file(f"{folder}/attempt-1/{part}.jsonl", f"{name} {part}", days) for part in parts}
                if stage == "train":
                    output["adapter"] = self.file(f"{folder}/attempt-1/adapter/weights", name, days).model_copy(update={"uri": f"{folder}/attempt-1/adapter"})
                    self.file(f"{folder}/checkpoints/7/state.pt", "s", days)
                self.file(f"{folder}/attempt-0/half", "h", days)
                cached = ""
            else:
                first = manifest.read(str(self.root / f"runs/flywheel/{of}/{stage}/manifest.json"))
                output, cached = first.outputs, first.cached_from or f"runs/flywheel/{of}/{stage}/manifest.json"
            made = Manifest(
                stage=stage,
                run_dir=f"runs/flywheel/{name}",
                attempt=1,
                cache_key=name,
                inputs=before,
                outputs=output,
                started=NOW,
                ended=NOW,
                cached_from=cached,
            )
            self.file(f"{folder}/manifest.json", made.model_dump_json(), days)
            self.file(f"cache/{stage}/{name}.json", json.dumps({"manifest": f"{folder}/manifest.json"}), days)
            before = {f"{stage}.{key}": artifact for key, artifact in output.items()}
        return output

    def data_set(self, run, days):
        found = manifest.read(str(self.root / f"runs/flywheel/{run}/clean/manifest.json")).outputs
        name = store.sha256_text(run)
        other = {part: self.file(f"runs/flywheel/{run}/dataset/{part}", run, days) for part in ("profile", "card", "report")}
        version = datasets.Version(
            id=name, created=(NOW - timedelta(days=days)).isoformat(), run_dir=f"runs/flywheel/{run}", records={}, kinds={}, slices={}, sources=[],
            raw=found["train"], content={split: found[split] for split in datasets.SPLITS}, tracked=f"datasets/{name}", **other,
        )  # fmt: skip
        self.file(f"datasets/{name}.json", version.model_dump_json(), days)
        md5 = name[:32]
        self.file(f"datasets/{name}/clean.dvc", json.dumps({"outs": [{"md5": f"{md5}.dir"}]}), days)
        self.file(f"datasets/.dvc/cache/files/md5/{md5[:2]}/{md5[2:]}.dir", json.dumps([{"md5": md5[::-1], "relpath": "a"}]), days)
        self.file(f"datasets/.dvc/cache/files/md5/{md5[::-1][:2]}/{md5[::-1][2:]}", run, days)
        return md5

    def version(self, run, parent=None, verdict="promote", retired=""):
        adapter = manifest.read(str(self.root / f"runs/flywheel/{run}/train/manifest.json")).outputs["adapter"]
        self.versions.append(Version(
            version=len(self.versions) + 1, base="b", prompt="auto", adapter=adapter, package=adapter, dataset="d", trained_ids=adapter, suites=adapter,
            reference=None, parent=parent, verdict=verdict, reason="", run_dir=f"runs/flywheel/{run}", retired=retired,
        ))  # fmt: skip
        return len(self.versions)

    def plan(self, conf=CONF, served=(), segments=(), **held):
        kinds = {kind: set(held.get(kind, ())) for kind in ("user", "record", "run", "dataset", "version")}
        return retention.plan(conf, NOW, retention.Known(list(reversed(self.versions)), set(served), kinds, set(segments)))

    def rests_on(self, number):
        """Every file that a version rests on, found without the code that is tested: through its run, its parents and its data set."""
        version = self.versions[number - 1]
        found = set()
        for stage in STAGES:
            made = manifest.read(str(self.root / version.run_dir / stage / "manifest.json"))
            for artifact in (*made.inputs.values(), *made.outputs.values()):
                path = self.root / artifact.uri
                found |= {path} if path.is_file() else set(path.rglob("*"))
            if made.cached_from:
                found.add(self.root / made.cached_from)
        entry = self.root / "datasets" / f"{store.sha256_text(version.run_dir.split('/')[-1])}.json"
        if entry.exists():
            told = datasets.Version.model_validate_json(entry.read_text())
            found |= {
                entry,
                *(self.root / a.uri for a in (told.profile, told.card, told.report, *told.content.values())),
                *(self.root / told.tracked).rglob("*"),
            }
            md5 = told.id[:32]
            objects = self.root / "datasets/.dvc/cache/files/md5"
            found |= {objects / md5[:2] / f"{md5[2:]}.dir", objects / md5[::-1][:2] / md5[::-1][2:]}
        return found | (self.rests_on(version.parent) if version.parent else set())


@pytest.fixture
def world(home):
    return Store(home)


RUN = st.tuples(
    st.integers(0, 400), st.integers(0, 9), st.booleans(), st.booleans(), st.integers(0, 9), st.sampled_from(["promote", "hold", "refuse"]), st.booleans()
)


@given(st.lists(RUN, min_size=1, max_size=6), st.sets(st.integers(1, 6)), st.sets(st.integers(1, 6), max_size=2))
@many(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_a_living_version_rests_on_never_goes(tmp_path_factory, monkeypatch_home, runs, served, held):
    world = Store(monkeypatch_home(tmp_path_factory.mktemp("store")))
    for number, (days, of, data_set, register, parent, verdict, retired) in enumerate(runs):
        world.run(str(number), days, of=str(of) if of < number else None)
        if data_set:
            world.data_set(str(number), days)
        if register:
            world.version(str(number), parent if 0 < parent <= len(world.versions) else None, verdict, "it lies" if retired else "")
    living = [v.version for v in world.versions if (v.verdict != "refuse" and not v.retired) or v.version in served or v.version in held]
    kept = set().union(*map(world.rests_on, living)) if living else set()
    gone = {world.root / key for key in world.plan(served=served, version=map(str, held)).remove}
    assert not gone & kept
    assert not [path for path in gone if path.name == "manifest.json"]
    assert all(path.is_file() for path in gone)


@pytest.fixture
def monkeypatch_home(monkeypatch):
    """Makes a folder the home; may be called again and again."""

    def move(folder):
        monkeypatch.setenv("FLYWHEEL_HOME", str(folder))
        settings.cache_clear()
        return folder

    yield move
    settings.cache_clear()


def why(plan, text):
    return sorted({reason for key, reason in plan.remove.items() if text in key})


def test_old_runs_go_and_young_ones_and_what_they_repeat_stay(world):
    world.run("old", 90)
    world.run("first", 90)
    world.run("young", 3, of="first")
    plan = world.plan()
    assert why(plan, "runs/flywheel/old/") == ["run"] and not any("manifest.json" in key for key in plan.remove)
    assert not [key for key in plan.remove if "first" in key and "attempt-1" in key] and why(plan, "first/train/attempt-0") == ["run"]
    assert not [key for key in plan.remove if key.startswith("runs/flywheel/young")]
    assert world.plan(Housekeep(run_days=None, orphan_days=None, checkpoint_days=None)).remove == {}


def test_checkpoints_of_trainings_that_ended(world):
    world.run("one", 10)
    world.file("runs/flywheel/two/train/checkpoints/3/state.pt", days=20)  # it may still be resumed
    world.version("one")
    assert {key: reason for key, reason in world.plan().remove.items() if "checkpoints" in key} == {
        "runs/flywheel/one/train/checkpoints/7/state.pt": "checkpoint"
    }


def test_data_sets_that_nothing_living_learned_from(world):
    for name, days in (("a", 200), ("b", 150), ("c", 100)):
        world.run(name, days)
    gone, kept, _newest = (world.data_set(name, days) for name, days in (("a", 200), ("b", 150), ("c", 100)))
    world.version("a", retired="it lies")
    world.version("b")
    plan = world.plan()
    objects = "datasets/.dvc/cache/files/md5"
    assert why(plan, store.sha256_text("a")) == ["data set"] and why(plan, f"{objects}/{gone[:2]}/{gone[2:]}") == ["orphan"]
    assert not why(plan, store.sha256_text("b")) and not why(plan, f"{objects}/{kept[:2]}/{kept[2:]}") and not why(plan, store.sha256_text("c"))
    held = world.plan(dataset=[store.sha256_text("a")[:8]])
    assert not why(held, store.sha256_text("a")) and not why(held, "runs/flywheel/a/clean/attempt-1")
    (world.root / objects / kept[:2] / f"{kept[2:]}.dir").unlink()  # a listing that is lost: nobody can say what it named
    assert not why(world.plan(), objects)


def test_a_held_run_stays_whole(world):
    world.run("old", 90)
    assert not why(world.plan(run=["flywheel/old"]), "runs/") and why(world.plan(), "runs/") == ["run"]


def test_orphans(world):
    world.run("one", 1)
    for key in ("feedback/examples/000001-abc.jsonl", "feedback/segments/1-2.jsonl", "cache/clean/gone.json", "cache/scores/x.json", "datasets/.a.json.tmp"):
        world.file(key, "{}", days=8)
    world.file("feedback/segments/3-4.jsonl", days=8)
    world.file("feedback/examples/000002-new.jsonl", days=1)
    published = world.file("feedback/examples/000003-used.jsonl", days=8)
    world.file("feedback/batches/000003.json", json.dumps({"examples": published.model_dump()}), days=8)
    world.file("somebody/elses.txt", days=900)
    plan = world.plan(segments=["3-4.jsonl"])
    assert sorted(plan.remove) == sorted(
        ["feedback/examples/000001-abc.jsonl", "feedback/segments/1-2.jsonl", "cache/clean/gone.json", "cache/scores/x.json", "datasets/.a.json.tmp"]
    )
    area = plan.areas()["feedback"]
    assert (area["files"], area["removable"]) == (6, 4) and area["needed"] == 1
