"""Nights that are made up for: which, at what cost, and only once."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from flywheel import airflow_api, cli, manifest, store
from flywheel.airflow_api import Conflict
from flywheel.manifest import Manifest
from flywheel.settings import settings


class Airflow:
    """Nights of a January, three of which have a run, one of those failed."""

    done, failed = {"2026-01-02", "2026-01-03"}, {"2026-01-04"}
    started: list[tuple] = []
    busy = False

    def nights(self, dag, first, last, again="none"):
        every = [f"2026-01-{day:02d}" for day in range(1, 32) if f"{first:%Y-%m-%d}" <= f"2026-01-{day:02d}" <= f"{last:%Y-%m-%d}"]
        left = {"none": self.done | self.failed, "failed": self.done, "completed": set()}[again]
        return [f"{night}T02:00:00Z" for night in every if night not in left]

    def backfill(self, dag, first, last, conf, at_once, again):
        if self.busy:
            raise Conflict("busy")
        self.started.append((f"{first:%Y-%m-%d}", f"{last:%Y-%m-%d}", conf, at_once, again))
        return 7


@pytest.fixture
def airflow(home, monkeypatch):
    monkeypatch.setenv("FLYWHEEL_FIRST_NIGHT", "2026-01-01")
    settings.cache_clear()
    fake = Airflow()
    fake.started = []
    monkeypatch.setattr("flywheel.cli_nights.AirflowApi", lambda: fake)
    return fake


def flywheel(*arguments):
    done = CliRunner().invoke(cli.app, ["backfill", *arguments])
    return done.exit_code, done.output


def turned(number, money, seconds, ended="held"):
    folder, now = store.join(settings().store, "runs", "flywheel", f"scheduled__{number}"), datetime(2026, 1, 1, tzinfo=UTC)
    metrics = {"ended": ended, "money": money, "seconds": seconds}
    manifest.write(Manifest(stage="summary", run_dir=store.relative(folder), attempt=1, cache_key="k", metrics=metrics, started=now, ended=now), folder)


def test_a_dry_run_says_what_it_would_cost_and_does_nothing(airflow):
    code, said = flywheel("2026-01-01", "2026-01-06", "--dry-run")
    assert code == 0 and "4 nights: 2026-01-01, 2026-01-04" in said and "not known" in said and not airflow.started
    for number, (money, seconds) in enumerate([(1.0, 3600), (3.0, 7200), (2.0, 5400)]):
        turned(number, money, seconds)
    turned(9, 100.0, 1.0, ended="failed")
    code, said = flywheel("2026-01-01", "2026-01-06", "--dry-run", "--at-once", "4")
    assert "about 8.00 USD and 1.5 hours, from the last 3 turns" in said and not airflow.started


def test_it_goes_on_where_it_was_cut_off_and_rolls_nothing_out_unless_asked(airflow):
    assert flywheel("2026-01-01", "2026-01-06", "--at-once", "4", "--set", "train.epochs=2")[0] == 0
    assert airflow.started == [("2026-01-01", "2026-01-06", {"set": ["train.epochs=2"]}, 4, "failed")]
    flywheel("2026-01-01", "2026-01-06", "--rollout")
    assert airflow.started[-1][2] == {"set": [], "rollout": "yes"}
    code, said = flywheel("2026-01-02", "2026-01-03")
    assert code == 3 and "every night between these has its run" in said
    airflow.busy = True
    code, said = flywheel("2026-01-01", "2026-01-06")
    assert code == 2 and "a backfill of this DAG goes on" in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("2026-01-32", "2026-02-01"), "Write nights as"), (("2026-01-06", "2026-01-05"), "is before"), (("2025-12-31", "2026-01-05"), "before the first night"),
        (("2026-01-01", "2026-01-02", "--again", "all"), "none, failed, completed"),
    ],
)  # fmt: skip
def test_wrong_nights_are_named(airflow, arguments, words):
    code, said = flywheel(*arguments)
    assert code == 2 and words in " ".join(said.split())
    assert airflow_api.AirflowApi  # the real one is not asked
