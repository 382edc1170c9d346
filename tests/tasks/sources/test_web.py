import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flywheel.errors import TransientError
from tests.tasks.sources.conftest import parted, reader

PAGE = """<html><head><title>On tea</title></head><body><nav>Home | Shop</nav><article><h1>On tea</h1>
<p>Boil fresh water and warm the pot with a little of it, then pour that away again.</p>
<p>Let the leaves draw for four minutes; longer makes the tea bitter, not stronger.</p></article></body></html>"""


def web(server, *paths, **options):
    urls = [server.url + path for path in paths]
    return reader(kind="web", urls=urls, **{"per_second": 1000, "backoff_seconds": 0.001, "attempts": 2, **options})


def page(text, status=200, **headers):
    return status, text.encode(), {"Content-Type": "text/html; charset=utf-8", **headers}


def test_a_page_is_a_record_and_so_may_be_its_paragraphs(server):
    server.routes["/tea"] = page(PAGE)
    (row,), rejected = parted(web(server, "/tea", question="What is known of {title}?"))
    assert row.instruction == "What is known of On tea?" and "Boil fresh water" in row.output and "Shop" not in row.output and not rejected
    rows, _ = parted(web(server, "/tea", each="paragraph", question="{title} {number}"))
    assert any(r.output.startswith("Let the leaves") for r in rows) and {r.group for r in rows} == {f"{server.url}/tea"}
    assert server.paths().count("/robots.txt") == 2, "once a run"


def test_robots_txt_is_honoured_on_the_way_too(server):
    server.routes |= {
        "/robots.txt": (200, b"User-agent: *\nDisallow: /private\n\nUser-agent: magpie\nDisallow: /\n", {}),
        "/tea": page(PAGE),
        "/private/tea": page(PAGE),
        "/moved": page("", 302, Location="/private/tea"),
    }
    rows, rejected = parted(web(server, "/tea", "/private/tea", "/moved"))
    assert len(rows) == 1 and [r.reason for r in rejected] == ["robots.txt forbids it"] * 2
    assert "/private/tea" not in server.paths()
    assert parted(web(server, "/tea", agent="magpie"))[0] == []
    assert server.asked[-1][1]["user-agent"] == "magpie"


def test_robots_txt_may_ask_for_patience(server):
    server.routes |= {"/robots.txt": (200, b"User-agent: *\nCrawl-delay: 0.2\n", {}), "/a": page(PAGE), "/b": page(PAGE)}
    start = time.monotonic()
    parted(web(server, "/a", "/b"))
    assert time.monotonic() - start >= 0.2


def test_a_page_at_fault_is_rejected_and_the_others_go_on(server):
    server.routes |= {
        "/empty": page("<html><body></body></html>"),
        "/image": (200, b"\x89PNG\r\n\x1a\n\0\0", {"Content-Type": "image/png"}),
        "/circle": page("", 302, Location="/circle"),
        "/secret": page("", 403),
        "/tea": page(PAGE),
    }
    rows, rejected = parted(web(server, "/empty", "/image", "/circle", "/secret", "/gone", "/tea"))
    assert len(rows) == 1
    reasons = {r.source.removeprefix(server.url): r.reason for r in rejected}
    assert reasons["/empty"] == reasons["/image"] == "the page has no text"
    assert "redirects" in reasons["/circle"] and "403" in reasons["/secret"] and "404" in reasons["/gone"]


def test_a_server_that_stays_busy_is_transient(server):
    server.routes["/tea"] = page("", 503)
    with pytest.raises(TransientError):
        parted(web(server, "/tea"))


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.binary(max_size=200) | st.text(max_size=200).map(lambda t: f"<html><body><p>{t}</p></body></html>".encode("utf-8", "replace")),
        min_size=1,
        max_size=4,
    )
)
def test_in_is_out_plus_rejected(one_server, found):
    one_server.routes |= {f"/{i}": (200, body, {}) for i, body in enumerate(found)}
    rows, rejected = parted(web(one_server, *(f"/{i}" for i in range(len(found)))))
    assert len(rows) + len(rejected) == len(found)
