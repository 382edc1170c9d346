"""The site: every page is in the navigation, every link leads somewhere, and the reference is what the code says."""

from __future__ import annotations

import re
import subprocess

import pytest
import yaml

from docs import reference
from tests.docs.blocks import PAGES, ROOT

DOCS = ROOT / "docs"
SITE = [page for page in PAGES if page.is_relative_to(DOCS)]


def navigation(part):
    """Every page that the navigation names."""
    if isinstance(part, str):
        return [part]
    return [name for one in (part.values() if isinstance(part, dict) else part) for name in navigation(one)]


def test_every_page_is_in_the_navigation_once():
    named = navigation(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(named) == sorted(page.relative_to(DOCS).as_posix() for page in SITE)


def anchors(page):
    """The anchors of a page, as both GitHub and the site make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    titles = [re.sub(r"[`*]|\[(.*?)\]\(.*?\)", r"\1", title) for title in re.findall(r"^#+ (.*)$", text, re.M)]
    return {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title.lower()).strip()) for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", link) or link.startswith("<"):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path) if path else page
        assert target.exists(), f"{page.name}: {link}"
        if page.is_relative_to(DOCS):
            assert target.resolve().is_relative_to(DOCS), f"{page.name}: {link} leads out of the site"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


@pytest.mark.parametrize("name", reference.PAGES)
def test_the_reference_is_what_the_code_says(name):
    expected = f"{reference.NOTE}\n{reference.PAGES[name]().rstrip()}\n"
    assert (reference.FOLDER / f"{name}.md").read_text() == expected, "write it again: .venv/ml/bin/python -m docs.reference"


@pytest.mark.slow
def test_the_site_is_built_without_a_warning():
    done = subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (ROOT / "site" / "index.html").exists() and (ROOT / "site" / "reference" / "config.html").exists()
