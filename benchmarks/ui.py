"""The page in headless Chromium: first useful paint, the time a click takes, ten sessions at once; beside an empty Streamlit page.

    make bench NAME=ui

The laptop stack must run. Wall times of a browser on this machine; the empty page says what Streamlit itself takes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.request import urlopen

from playwright.sync_api import Browser, Page, sync_playwright

from flywheel.settings import settings
from tests.conftest import free_port
from tests.ui.screens import PATIENCE, enter, launch, ready

TIMES, SESSIONS = 7, 10
EMPTY = "import streamlit as st\nst.title('Empty')\nst.chat_input('Ask a question')\nif st.button('Click'):\n    st.write('clicked')\n"


def seconds(act: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def paint(browser: Browser, url: str) -> float:
    """Median seconds until one can type a question, from an empty cache."""

    def once() -> float:
        page = browser.new_context().new_page()
        took = seconds(lambda: (page.goto(url), page.get_by_role("textbox", name="Ask a question").wait_for(timeout=PATIENCE)))
        page.context.close()
        return took

    return statistics.median(once() for _ in range(TIMES))


def click(page: Page, there: Callable[[], object], back: Callable[[], object]) -> float:
    """Median seconds of a click and what it shows."""
    found = []
    for _ in range(TIMES):
        found.append(seconds(there))
        back()
        ready(page)
    return statistics.median(found)


def clicks(browser: Browser) -> dict[str, float]:
    """Clicks that ask no model."""
    page = browser.new_page()
    enter(page, "?user=Bench")

    def show(link: str, heading: str) -> Callable[[], object]:
        return lambda: (page.get_by_role("link", name=link).click(), page.get_by_role("heading", name=heading, exact=True).wait_for(timeout=PATIENCE))

    chat = show("Chat", "Ask, rate, correct")
    found = {name: click(page, show(name, heading), chat) for name, heading in (("Playground", "Playground"), ("My feedback", "My feedback"))}
    page.get_by_role("textbox", name="Ask a question").fill("What does `os.fsync` do?")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Regenerate").wait_for(timeout=PATIENCE)
    ready(page)
    thumb, stored, undo = page.get_by_role("radio", name="Thumbs up"), page.get_by_text("stored"), page.get_by_role("button", name="Withdraw")
    found["thumb"] = click(page, lambda: (thumb.click(), stored.wait_for()), lambda: (undo.click(), stored.wait_for(state="detached")))
    page.close()
    return found


def together(browser: Browser) -> float:
    """Seconds until ten sessions that ask at once all have their answer."""
    pages = [browser.new_context().new_page() for _ in range(SESSIONS)]
    for number, page in enumerate(pages):
        enter(page, f"?user=Bench{number}")
        page.get_by_role("textbox", name="Ask a question").fill(f"What is {number} plus {number}?")

    def all_of_them() -> None:
        for page in pages:
            page.get_by_role("textbox", name="Ask a question").press("Enter")
        for page in pages:
            page.get_by_role("button", name="Regenerate").wait_for(timeout=PATIENCE)

    return seconds(all_of_them)


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        (Path(folder) / "empty.py").write_text(EMPTY)
        port = free_port()
        flags = ["--server.address", "127.0.0.1", "--server.port", str(port), "--server.headless", "true", "--browser.gatherUsageStats", "false"]
        peer = subprocess.Popen([sys.executable, "-m", "streamlit", "run", f"{folder}/empty.py", *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        browser = launch(playwright)
        try:
            while True:
                try:
                    urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5)
                    break
                except OSError:
                    time.sleep(0.2)
            enter(browser.new_page(), "?user=Bench")
            ours = {"paint": paint(browser, f"{settings().ui_url}/?user=Bench"), **clicks(browser), "ten_sessions": together(browser)}
            empty = browser.new_page()
            empty.goto(f"http://127.0.0.1:{port}")
            shown = empty.get_by_text("clicked")
            peers = {
                "empty_paint": paint(browser, f"http://127.0.0.1:{port}"),
                "empty_click": click(empty, lambda: (empty.get_by_role("button", name="Click").click(), shown.wait_for()), lambda: empty.reload()),
            }
        finally:
            browser.close()
            peer.terminate()
    ratios = {
        "paint": ours["paint"] / peers["empty_paint"],
        "click": max(v for k, v in ours.items() if k not in ("paint", "ten_sessions")) / peers["empty_click"],
    }
    met = ours["paint"] < 2 and all(v < 0.3 for k, v in ours.items() if k not in ("paint", "ten_sessions"))
    print(json.dumps({"name": "ui", "ours": ours, "peers": peers, "ratios": ratios, "goal": "paint < 2 s, a click < 0.3 s", "met": met}))


if __name__ == "__main__":
    main()
