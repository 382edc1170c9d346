"""Airflow's real pages in a real browser, as an operator uses them: a turn from the form, a backfill, a log, a yes, a retry, and every link.

pytest -m slow tests/e2e/test_airflow_ui.py        (a quarter of an hour; one stack for all)
"""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from flywheel import ledger, manifest, registry
from flywheel.settings import settings
from flywheel.turn import STAGES
from tests.ui import airflow as pages
from tests.ui import screens

playwright = pytest.importorskip("playwright.sync_api")
expect = playwright.expect
expect.set_options(timeout=screens.PATIENCE)
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not screens.chromium(), reason="no browser is installed: apt install chromium, or set CHROMIUM to one")]
NIGHTS = [f"{datetime.now(UTC) - timedelta(days=days):%Y-%m-%d}" for days in range(6, 1, -1)]
FIRST_NIGHT = NIGHTS[0]
SECONDS = 2400


@pytest.fixture
def page(browser, airflow):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(screens.PATIENCE)
    yield context.new_page()
    context.close()


def until(truth, what=""):
    """Wait for it, and give it back."""
    end = time.monotonic() + SECONDS
    while not (found := truth()):
        assert time.monotonic() < end, what
        time.sleep(1)
    return found


def folder(run_id: str) -> str:
    return manifest.run_dir("flywheel", run_id, settings().store)


@pytest.fixture(scope="module")
def turn(airflow, browser):
    """A run that was triggered from the form, with choices, and that now waits for a person.

    It learns for longer than last night's, which the schedule begins by itself and which is the champion by then: its gain is certain.
    """
    airflow.unpause("flywheel")
    until(lambda: any(run["run_type"] == "scheduled" and run["state"] == "success" for run in airflow.runs("flywheel")), "last night's run")
    page = browser.new_context(viewport={"width": 1280, "height": 900}).new_page()
    page.set_default_timeout(screens.PATIENCE)
    known = {run["dag_run_id"] for run in airflow.runs("flywheel")}
    dialog = pages.open_form(page)
    page.locator("#element_set").fill("seed=7\nsummary.samples=3\ngate.slice_margin=1\ntrain.epochs=6")
    pages.choose(dialog, "Training", "method", "LoRA")
    pages.choose(dialog, "Release", "approval", "always")
    dialog.get_by_role("button", name="Trigger").click()
    page.get_by_role("dialog").wait_for(state="detached")
    run_id = until(lambda: [run["dag_run_id"] for run in airflow.runs("flywheel") if run["run_type"] == "manual" and run["dag_run_id"] not in known])[0]
    until(lambda: airflow.questions("flywheel") or airflow.run("flywheel", run_id)["state"] in ("success", "failed"), run_id)
    page.context.close()
    return run_id


def test_what_the_form_was_filled_with_is_what_is_done(turn, airflow):
    asked = airflow.run("flywheel", turn)["conf"]
    assert (asked["method"], asked["approval"], asked["set"][0]) == ("lora", "always", "seed=7")
    assert manifest.read_for(folder(turn), "train").params["method"] == "lora"
    assert manifest.read_for(folder(turn), "gate").params["approval"] == "always"
    assert manifest.read_for(folder(turn), "gate").metrics["approval"] == "needed"


def test_a_log_can_be_read(turn, page):
    pages.open_log(page, turn, "ingest")
    log = page.get_by_test_id("virtualized-list")
    expect(log).to_contain_text("ingest · run")
    expect(log).to_contain_text("120 records")
    assert "Traceback" not in log.inner_text()


def test_a_yes_in_airflow_rolls_the_version_out_and_the_audit_log_says_whose_it_was(turn, page, airflow):
    version = manifest.read_for(folder(turn), "register").metrics["version"]
    agree = pages.open_question(page, turn)
    expect(page.get_by_text(f"Roll out version {version}?")).to_be_visible()
    report = page.get_by_role("link", name="The evaluation report")
    assert settings().mlflow_url in report.get_attribute("href")
    agree.click()
    until(lambda: airflow.run("flywheel", turn)["state"] == "success", turn)
    assert registry.alias("champion") == version
    said = next(event for event in ledger.list_events(50, "promote") if event["detail"]["version"] == version)
    assert manifest.read_for(folder(turn), "rollout").params["approved_by"] and said["actor"], said


def test_every_extra_link_is_alive(turn, page, airflow):
    """Each is followed: it answers 200, with what it promises."""
    expected = {
        "dataset": {"Data card", "Data report"}, "train": {"MLflow run", "Data card"}, "evaluate": {"Evaluation report", "MLflow run"},
        "gate": {"Evaluation report"}, "register": {"Model version", "MLflow run", "Data card"}, "rollout": {"Model version", "Evaluation report"},
        "summary": {"The whole turn"}, "approve": {"Evaluation report", "Model version", "Data card"},
    }  # fmt: skip
    version = manifest.read_for(folder(turn), "register").metrics["version"]
    signs = {
        "Data card": "licence", "Data report": "records", "Evaluation report": "rule", "The whole turn": "ingest", "Model version": f"Version {version}",
        "MLflow run": "Artifacts",
    }  # fmt: skip
    followed = set()
    for task in [*STAGES, "approve", "summary"]:
        found = pages.links(page, turn, task)
        assert set(found) == expected.get(task, set()) | ({"Manifest"} if task != "approve" else set()), task
        for name, address in found.items():
            if address in followed:
                continue
            followed.add(address)
            reply = page.goto(address)
            assert reply.status == 200, (task, name, address)
            if name == "Manifest":
                assert reply.json()["stage"] == task and reply.json()["run_dir"].rsplit("/", 1)[-1] == folder(turn).rsplit("/", 1)[-1]
            else:
                page.get_by_text(signs[name]).first.wait_for()
    print(f"{len(followed)} pages followed")


def test_marked_failed_and_cleared_it_is_done_again(turn, page, airflow):
    def rollout():
        return next(t for t in airflow.tasks("flywheel", turn) if t["task_id"] == "rollout")

    tries = rollout()["try_number"]
    pages.go(page, pages.run_address(turn, "tasks", "rollout"), page.get_by_role("button", name="Mark Task Instance as..."))
    page.get_by_role("button", name="Mark Task Instance as...").click()
    page.get_by_role("menuitem", name="Failed").click()
    page.get_by_role("dialog").get_by_role("button", name="Confirm").click()
    until(lambda: rollout()["state"] == "failed")
    page.reload()
    page.get_by_role("button", name="Press shift+c to clear").click()
    page.get_by_role("dialog").get_by_role("button", name="Confirm").click()
    until(lambda: rollout()["try_number"] > tries and rollout()["state"] in ("success", "skipped"), turn)
    until(lambda: airflow.run("flywheel", turn)["state"] == "success", turn)


def test_five_nights_are_backfilled_from_the_form_and_none_is_rolled_out(turn, page, airflow):
    champion = registry.alias("champion")
    dialog = pages.open_backfill(page, NIGHTS[0], NIGHTS[-1])
    expect(dialog.get_by_text("5 runs will be triggered.")).to_be_visible()
    dialog.get_by_role("button", name="Run Backfill").click()
    page.get_by_role("dialog").wait_for(state="detached")

    def nights():
        return [run for run in airflow.runs("flywheel") if run["run_type"] == "backfill"]

    until(lambda: len(nights()) == 5 and all(run["state"] in ("success", "failed") for run in nights()), "backfill")
    assert {run["logical_date"][:10] for run in nights()} == set(NIGHTS) and {run["state"] for run in nights()} == {"success"}
    assert registry.alias("champion") == champion
    for run in nights():
        assert manifest.read_for(folder(run["dag_run_id"]), "register").metrics["version"]
        assert manifest.read_for(folder(run["dag_run_id"]), "rollout").outcome == "skipped"
