"""Screenshots of every page for docs/ui.md: light and dark, wide and narrow. The laptop stack must run, with `make demo`'s data in it.

    python -m tests.ui.screens [folder]

It asks, rates, compares and uploads as a person would, then opens the same addresses in each look.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from flywheel.settings import REPOSITORY, settings

LOOKS: dict[str, dict[str, Any]] = {
    f"{width}-{theme}": {"viewport": size, "color_scheme": theme}
    for width, size in {"wide": {"width": 1120, "height": 940}, "narrow": {"width": 390, "height": 844}}.items()
    for theme in ("light", "dark")
}
PATIENCE = 120_000  # ms: a model on a CPU
QUESTIONS = ("What does `calendar.Calendar.iterweekdays` do?", "What does `shutil.copytree` do?", "What does `textwrap.dedent` do?")


def chromium() -> str | None:
    """The browser to drive: CHROMIUM, or the one on the path."""
    return os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


def launch(playwright: Any) -> Browser:
    """Headless Chromium, as root too."""
    return playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])


def ready(page: Page) -> None:
    """The page has drawn everything and its script has ended."""
    page.get_by_test_id("stApp").and_(page.locator("[data-test-script-state=notRunning]")).wait_for(timeout=PATIENCE)


def enter(page: Page, path: str = "") -> None:
    """Open a page as somebody who agrees to the policy."""
    page.goto(f"{settings().ui_url}/{path}", timeout=PATIENCE)
    ready(page)
    page.wait_for_timeout(300)
    agree = page.get_by_text("I have read this and agree.")
    if agree.is_visible():
        agree.click()
        page.get_by_role("button", name="Go on").click()
        page.get_by_role("button", name="Go on").wait_for(state="detached", timeout=PATIENCE)
        ready(page)


def prepare(page: Page) -> dict[str, str]:
    """Use every page once; the address of what came of it, by the picture's name."""
    enter(page, "?user=Ada")
    page.get_by_role("textbox", name="Ask a question").fill(QUESTIONS[0])
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Regenerate").wait_for(timeout=PATIENCE)
    page.get_by_role("radio", name="Thumbs down").click()
    page.get_by_role("textbox", name="The answer as it should be").fill("Return an iterator over the numbers of the days of one week.")
    page.keyboard.press("Control+Enter")
    page.get_by_text("incomplete").click()
    page.get_by_role("button", name="Send", exact=True).click()
    expect(page.get_by_text("stored").first).to_be_visible(timeout=PATIENCE)
    found = {"chat": page.url}
    enter(page, "compare?user=Ada")
    page.get_by_role("textbox", name="Ask both").fill(QUESTIONS[1])
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Left is better").wait_for(timeout=PATIENCE)
    found["compare"] = page.url
    enter(page, "playground?user=Ada")
    page.get_by_role("textbox", name="Question").fill(QUESTIONS[2])
    page.get_by_role("button", name="Run").click()
    page.get_by_text("perplexity").wait_for(timeout=PATIENCE)
    found["playground"] = page.url
    enter(page, "batch?user=Ada")
    rows = "prompt\n" + "\n".join(QUESTIONS)
    page.locator("input[type=file]").set_input_files({"name": "questions.csv", "mimeType": "text/csv", "buffer": rows.encode()})
    page.get_by_role("button", name="Answer them").click()
    page.get_by_role("button", name="Download CSV").wait_for(timeout=PATIENCE)
    found["batch"] = page.url
    base = settings().ui_url
    return {**found, "review": f"{base}/review?user=Ada", "quality": f"{base}/quality?user=Ada", "mine": f"{base}/mine?user=Ada"}


def shoot(browser: Browser, addresses: dict[str, str], folder: Path) -> None:
    """One picture of each address in each look, and of the policy as a newcomer sees it."""
    for look, options in LOOKS.items():
        page = browser.new_context(**options, reduced_motion="reduce").new_page()
        for name, address in {"policy": f"{settings().ui_url}/?user=Newcomer", **addresses}.items():
            page.goto(address, timeout=PATIENCE)
            ready(page)
            page.wait_for_timeout(1500)  # charts and fonts
            page.screenshot(path=folder / f"{name}-{look}.png")
            print(f"{name}-{look}.png")
        page.context.close()


def shrink(folder: Path, names: str = "*.png") -> None:
    """128 colours are enough for a page of text, and a third of the size."""
    from PIL import Image

    for path in folder.glob(names):
        Image.open(path).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def main(folder: Path) -> None:
    """All of it."""
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = launch(playwright)
        shoot(browser, prepare(browser.new_page()), folder)
        browser.close()
    shrink(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY / "docs" / "screens")
