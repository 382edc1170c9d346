"""The index of data set versions, what changed between two, and the commands that show it."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as how
from hypothesis import strategies as st
from typer.testing import CliRunner

from flywheel import cli, data_diff, datasets, manifest
from flywheel.errors import ContractError, NotFound
from flywheel.records import Example, example_id
from flywheel.settings import settings


def example(instruction, output, split="train", slice="a", source="s"):
    return Example(
        id=example_id(instruction, "", output), instruction=instruction, output=output, group=instruction, split=split, slice=slice, source=source,
        licence="CC0-1.0", consent="made here",
    )  # fmt: skip


def publish(examples, **more):
    """A version of these records, as the dataset stage publishes it."""
    name = datasets.identity(map(datasets.canonical, examples))
    folder = settings().home / "store" / "runs" / name[:8]
    folder.mkdir(parents=True, exist_ok=True)

    def artifact(file, text):
        (folder / file).write_text(text)
        return manifest.describe(folder / file, str(folder / file))

    content = {split: artifact(f"{split}.jsonl", "".join(e.model_dump_json() + "\n" for e in examples if e.split == split)) for split in datasets.SPLITS}
    other = artifact("card.md", "# The card\n")
    source = datasets.SourceCount(name="s", licence="CC0-1.0", consent="made here", records=len(examples))
    version = datasets.Version(
        id=name, run_dir=f"runs/{name[:8]}", records={"train": len(examples)}, kinds={}, slices={}, sources=[source], raw=other, content=content, profile=other,
        card=other, report=other, **{"created": "2026-01-01T00:00:00+00:00", **more},
    )  # fmt: skip
    datasets.write(version)
    return version


OLD = [example("same", "x"), example("gone", "x", slice="b"), example("mended", "wrong"), example("moved", "x")]
NEW = [
    example("same", "x"),
    example("mended", "right"),
    example("moved", "x", "heldout"),
    example("fresh", "y", slice="c", source="t"),
    example("fresh too", "y"),
]


def test_what_changed(home):
    found = data_diff.compare(publish(OLD), publish(NEW), 5)
    assert (found.same, found.added, found.removed, found.changed) == (1, 2, 1, 2)
    assert found.by_source == {"s": {"added": 1, "removed": 1, "changed": 2}, "t": {"added": 1, "removed": 0, "changed": 0}}
    assert found.by_slice["b"] == {"added": 0, "removed": 1, "changed": 0} and found.by_slice["c"]["added"] == 1
    changed = {p.instruction: (p.before, p.after) for p in found.samples["changed"]}
    assert changed == {"mended": ("wrong", "right"), "moved": ("x", "(heldout) x")}
    assert "mended" in data_diff.text(found) and "2 added, 1 removed, 2 changed, 1 the same" in data_diff.text(found)


@how(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(*[st.lists(st.tuples(st.sampled_from("abcde"), st.sampled_from("xyz")), max_size=9, unique=True)] * 2)
def test_nothing_is_counted_twice_or_not_at_all(home, old, new):
    a, b = (publish([example(*pair) for pair in pairs]) for pairs in (old, new))
    there, back = data_diff.compare(a, b, 0), data_diff.compare(b, a, 0)
    assert there.same + there.removed + there.changed == len(old) and there.same + there.added + there.changed == len(new)
    assert (there.added, there.removed, there.changed) == (back.removed, back.added, back.changed)
    assert sum(row["changed"] for row in there.by_slice.values()) == there.changed


def test_the_id_is_the_content(home):
    assert publish(OLD).id == publish(OLD[::-1]).id != publish(NEW).id
    assert datasets.identity([]) and len(datasets.versions()) == 2
    assert datasets.canonical(OLD[0]) == datasets.canonical(Example.model_validate_json(OLD[0].model_dump_json()))


def test_the_reference_is_the_last_earlier_night(home):
    first = publish(OLD, until="2026-01-01T02:00:00+00:00")
    second = publish(NEW, until="2026-01-02T02:00:00+00:00", reference=first.id)
    third = [example("third", "z")]
    fresh = publish(third, until="2026-01-09T02:00:00+00:00").content
    datasets.store.local_path(datasets.uri(datasets.identity(map(datasets.canonical, third)))).unlink()
    assert datasets.reference_for(fresh, "2026-01-03T02:00:00+00:00") == second
    assert datasets.reference_for(fresh, "2026-01-02T02:00:00+00:00") == first  # a backfilled night does not see what came later
    assert datasets.reference_for(fresh, "2026-01-01T02:00:00+00:00") is None
    assert datasets.reference_for(fresh, "") == second
    assert datasets.reference_for(second.content, "2026-02-01T02:00:00+00:00") == first  # what it was compared with when it was accepted
    assert datasets.reference_for(first.content, "") is None


def test_what_is_not_there_or_not_clear_is_said_so(home):
    a, b = publish(OLD), publish(NEW)
    assert datasets.get(a.id[:12]) == a
    with pytest.raises(NotFound, match="flywheel data versions"):
        datasets.get("0000zz")
    with pytest.raises(ContractError, match="2 data set versions"):
        datasets.get("")
    datasets.store.write_bytes(datasets.uri(b.id), b"{}")
    with pytest.raises(ContractError, match="Delete it"):
        datasets.versions()


def test_the_commands(home, tmp_path):
    a, b = publish(OLD), publish(NEW, until="2026-01-02T02:00:00+00:00")
    ask = CliRunner().invoke
    assert [v["id"] for v in json.loads(ask(cli.app, ["data", "versions", "--json"]).output)] == [b.id, a.id]
    assert a.id[:12] in ask(cli.app, ["data", "versions"]).output
    assert "# The card" in ask(cli.app, ["data", "show", a.id[:8]]).output
    assert json.loads(ask(cli.app, ["data", "show", a.id[:8], "--json"]).output)["id"] == a.id
    assert json.loads(ask(cli.app, ["data", "diff", a.id[:8], b.id[:8], "--json"]).output)["changed"] == 2
    assert "1 removed" in ask(cli.app, ["data", "diff", a.id[:8], b.id[:8]]).output
    assert "records are in" in ask(cli.app, ["data", "export", a.id[:8], str(tmp_path / "a.jsonl")]).output
    assert json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])["messages"][-1]["role"] == "assistant"
    assert ask(cli.app, ["data", "diff", a.id[:8], "none"]).exit_code == 2
