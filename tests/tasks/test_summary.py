"""The page about a turn: from the manifests alone, whatever became of the stages."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest

from flywheel import config, manifest, stage, store
from flywheel.manifest import Cost, Manifest
from flywheel.settings import settings
from tasks import summary

BEGAN = datetime(2026, 1, 1, 2, tzinfo=UTC)


@pytest.fixture
def conf(home):
    home.mkdir()
    (home / "c.yaml").write_text("ingest: {sources: [{kind: docs, licence: PSF-2.0, consent: published}]}\n")
    return config.load(str(home / "c.yaml"), ["summary.history=3"])


def lay(name: str, began: int, seconds: int, run: str = "scheduled__1", outputs: dict | None = None, **more) -> None:
    """One finished stage of a run; outputs by name: file name and text."""
    folder = f"{settings().store}/runs/flywheel/{run}"
    artifacts = {}
    for output, (file, text) in (outputs or {}).items():
        uri = store.join(folder, name, "attempt-1", file)
        store.write_bytes(uri, text.encode())
        artifacts[output] = manifest.describe(store.local_path(uri), store.relative(uri), text.count("\n"))
    start = BEGAN + timedelta(seconds=began)
    m = Manifest(
        stage=name, run_dir=store.relative(folder), attempt=1, cache_key="k", outputs=artifacts, started=start, ended=start + timedelta(seconds=seconds),
        cost=Cost(cpu_seconds=seconds, money=seconds / 100), **more,
    )  # fmt: skip
    manifest.write(m, folder)


def turned(run: str = "scheduled__1", verdict: str = "promote", rollout: bool = True) -> str:
    """A whole run; its folder."""
    answers = "suite,slice,id,prompt,reference,champion,challenger\nheldout,a,1,same?,yes,yes,yes\nheldout,a,2,<b>what?</b>,that,no,that\ngeneral,a,3,x,y,z,z\n"
    rules = {"verdict": verdict, "paragraph": "It is <better>.", "rules": [{"name": "primary", "outcome": "pass", "text": "0.1 & more"}]}
    lay("ingest", 0, 4, run, outputs={"records": ("r.jsonl", "a\nb\n"), "quarantine": ("q.jsonl", "c\n")})
    lay("clean", 5, 3, run, cached_from="runs/flywheel/0/clean/manifest.json")
    lay("tokenize", 9, 2, run)
    lay("dataset", 12, 5, run)
    losses = "".join(json.dumps({"loss": 3 - i / 100}) + "\n" for i in range(250))
    metrics = {"new_examples": 12, "replayed": 3, "tokens": 4567, "steps": 250, "final_loss": 0.51}
    lay("train", 12, 60, run, outputs={"losses": ("losses.jsonl", losses)}, metrics=metrics)
    lay("parity", 73, 5, run)
    lay("evaluate", 73, 20, run, outputs={"answers": ("answers.csv", answers)}, metrics={"log_loss.gain": 0.03})
    gate = {"verdict": verdict, "reason": "because", "approval": "not needed"}
    lay("gate", 94, 2, run, outputs={"verdict": ("verdict.json", json.dumps(rules))}, params={"primary": "log_loss"}, metrics=gate)
    lay("register", 97, 2, run, metrics={"version": 7, "page": "http://m/#/experiments/1/runs/ab/artifacts/report/report.html"})
    if rollout:
        lay("rollout", 100, 10, run)
    return f"{settings().store}/runs/flywheel/{run}"


def page_of(m: Manifest) -> str:
    return store.read_bytes(m.outputs["page"].location).decode()


def test_a_whole_turn(conf):
    run = turned()
    m = stage.execute(summary.STAGE, conf, run)
    told = m.metrics
    assert (told["ended"], told["version"], told["gain"], told["primary"]) == ("rolled out", 7, 0.03, "log_loss")
    assert told["seconds"] == 110 and told["stage_seconds"] == 113 and told["money"] == pytest.approx(1.13)
    page = page_of(m)
    assert "It is &lt;better&gt;." in page and "&lt;b&gt;what?&lt;/b&gt;" in page and "<script" not in page
    assert page.index("&lt;b&gt;what?") < page.index("same?") and "general" not in page.partition("<h2>Samples")[2].partition("<h2>")[0]
    lefts = [float(x) for x in re.findall(r'style="left:([\d.]+)%', page)]
    assert len(lefts) == 10 and lefts[0] == 0 and all(0 <= left <= 100 for left in lefts) and lefts[4] == pytest.approx(100 * 12 / 110, abs=0.01)
    assert 'class="before"' in page and "http://m/#/experiments/1/runs/ab" in page and "quarantine 1" in page
    assert 80 < len(re.search(r'polyline points="([^"]+)"', page).group(1).split()) <= 125
    assert "The last" not in page  # there is no history yet


@pytest.mark.parametrize(
    ("verdict", "rollout", "ended"), [("promote", False, "promoted"), ("hold", True, "held"), ("refuse", True, "refused"), ("promote", True, "rolled out")]
)
def test_how_it_ended(conf, verdict, rollout, ended):
    assert stage.execute(summary.STAGE, conf, turned(verdict=verdict, rollout=rollout)).metrics["ended"] == ended


def test_a_turn_that_failed_or_was_skipped_is_told_of_too(conf):
    lay("ingest", 0, 4)
    lay("clean", 5, 3)
    run = f"{settings().store}/runs/flywheel/scheduled__1"
    failed = stage.execute(summary.STAGE, conf, run)
    assert (failed.metrics["ended"], failed.metrics["at"]) == ("failed", "tokenize") and "did not finish" in page_of(failed)
    lay("tokenize", 9, 2)
    lay("train", 12, 1, outcome="skipped", reason="too little is new")
    skipped = stage.execute(summary.STAGE, conf, run)  # it looks anew: there is more by now
    assert (skipped.metrics["ended"], skipped.metrics["why"]) == ("skipped", "too little is new")
    nothing = stage.execute(summary.STAGE, conf, f"{settings().store}/runs/flywheel/scheduled__2")
    assert (nothing.metrics["ended"], nothing.metrics["at"]) == ("failed", "ingest")


def test_the_history_has_the_turns_before(conf):
    for number in range(1, 6):
        m = stage.execute(summary.STAGE, conf, turned(f"scheduled__2026-01-0{number}", verdict="promote" if number % 2 else "hold"))
    page = page_of(m)
    assert "The last 3 turns" in page and len(re.findall("<circle", page)) == 3 and "scheduled__2026-01-02" not in page
    assert page.index("scheduled__2026-01-05</td>") < page.index("scheduled__2026-01-04</td>")
