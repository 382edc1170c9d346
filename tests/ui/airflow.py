"""Airflow's own pages, as an operator uses them; and their screenshots for the handbook. The laptop stack must run, with a turn in it.

    python -m tests.ui.airflow [folder]

A promotion that waits for a person is pictured when there is one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import Locator, Page, expect, sync_playwright

from flywheel.airflow_api import AirflowApi
from flywheel.settings import REPOSITORY, settings
from tests.ui.screens import PATIENCE, launch, shrink

DAG = "flywheel"


def run_address(run_id: str, *parts: str) -> str:
    """A run's page in Airflow, or one of a task of it."""
    return "/".join([settings().airflow_url, "dags", DAG, "runs", quote(run_id), *parts])


def go(page: Page, address: str, sign: Locator) -> None:
    """Open a page, which is there when the sign is."""
    page.goto(address, timeout=PATIENCE)
    sign.first.wait_for(timeout=PATIENCE)


def open_run(page: Page, run_id: str) -> None:
    """A run with its tasks."""
    go(page, run_address(run_id), page.get_by_text("Task Instances"))
    page.get_by_role("link", name="summary").first.wait_for(timeout=PATIENCE)


def open_log(page: Page, run_id: str, task: str) -> None:
    """The log of a task's last try, to its end."""
    go(page, run_address(run_id, "tasks", task), page.get_by_role("button", name="Mark Task Instance as..."))
    page.get_by_test_id("virtualized-list").get_by_text("CPU-seconds").first.wait_for(timeout=PATIENCE)


def links(page: Page, run_id: str, task: str) -> dict[str, str]:
    """The extra links of a task: where each leads, by what its button says."""
    go(page, run_address(run_id, "tasks", task, "details"), page.get_by_text("Extra Links"))
    buttons = page.get_by_text("Extra Links").locator("xpath=following::a[starts-with(@href, 'http')]")
    buttons.first.wait_for(timeout=PATIENCE)
    return {button.inner_text(): str(button.get_attribute("href")) for button in buttons.all()}


def open_form(page: Page) -> Locator:
    """The dialog under *Trigger*."""
    go(page, f"{settings().airflow_url}/dags/{DAG}", page.get_by_role("button", name="Trigger"))
    page.get_by_role("button", name="Trigger").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Run Parameters").wait_for(timeout=PATIENCE)
    return dialog


def choose(dialog: Locator, section: str, param: str, option: str) -> None:
    """Pick one of a field's options in the form."""
    dialog.get_by_role("button", name=section).click()
    dialog.locator(f"[name=element_{param}]").locator("xpath=preceding::*[@role='combobox'][1]").click()
    dialog.page.get_by_role("option", name=option, exact=True).click()


def open_backfill(page: Page, first: str, last: str) -> Locator:
    """The same dialog, about the nights from one ISO date to another."""
    dialog = open_form(page)
    dialog.get_by_text("Backfill", exact=True).click()
    for field, date in (("From", first), ("To", last)):
        dialog.get_by_role("group").filter(has_text=field).get_by_test_id("datetime-input").click()
        page.get_by_placeholder("YYYY/MM/DD").locator("visible=true").fill(date.replace("-", "/"))
        page.get_by_placeholder("HH:mm").locator("visible=true").fill("02:00")
        page.keyboard.press("Escape")
    return dialog


def open_question(page: Page, run_id: str) -> Locator:
    """A promotion that waits: the button that agrees."""
    agree = page.get_by_role("button", name="Approve", exact=True)
    go(page, run_address(run_id, "tasks", "approve", "required_actions"), agree)
    return agree


def shoot(page: Page, folder: Path) -> None:
    """One picture of each."""
    api = AirflowApi()
    run_id = next(run["dag_run_id"] for run in api.runs(DAG) if run["state"] == "success")
    night = api.run(DAG, run_id)["run_after"][:10]

    def picture(name: str) -> None:
        page.wait_for_timeout(2000)  # what moves has come to rest
        page.screenshot(path=folder / f"airflow-{name}.png")
        print(f"airflow-{name}.png")

    open_run(page, run_id)
    picture("run")
    open_log(page, run_id, "ingest")
    picture("log")
    links(page, run_id, "register")
    page.get_by_text("Extra Links").scroll_into_view_if_needed()
    picture("links")
    open_form(page).get_by_role("button", name="Training").click()
    picture("form")
    open_backfill(page, night, night)
    picture("backfill")
    if waiting := api.questions(DAG):
        open_question(page, waiting[0]["task_instance"]["dag_run_id"])
        picture("approval")


def main(folder: Path) -> None:
    """All of it."""
    with sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_context(viewport={"width": 1280, "height": 800}, reduced_motion="reduce").new_page()
        page.set_default_timeout(PATIENCE)
        expect.set_options(timeout=PATIENCE)
        shoot(page, folder)
        browser.close()
    shrink(folder, "airflow-*.png")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "screens")
