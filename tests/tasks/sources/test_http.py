import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flywheel.errors import ContractError, DataError, TransientError
from tests.conftest import free_port
from tests.tasks.sources.conftest import GOOD, SOURCE, Server, parted, reader

QUICK = {"backoff_seconds": 0.001, "per_second": 1000, "attempts": 3}


def api(server, path="/api", **options):
    return reader(options.pop("until", ""), kind="http", url=server.url + path, **{**QUICK, **options})


def reply(content, status=200, **headers):
    return status, json.dumps(content).encode(), {name.replace("_", "-"): value for name, value in headers.items()}


def numbered(*numbers):
    return [{"instruction": f"Q{n}", "output": "A"} for n in numbers]


def query(request):
    return {name: found[0] for name, found in parse_qs(urlsplit(request.path).query).items()}


def test_where_the_records_are_and_how_they_are_called(server):
    server.routes["/api"] = reply({"data": {"items": [{"q": "Q", "a": {"text": "A"}}, "no object", {"q": 5}]}})
    rows, rejected = parted(api(server, records="data.items", columns={"instruction": "q", "output": "a.text"}))
    assert [(r.instruction, r.output) for r in rows] == [("Q", "A")] and [r.line for r in rejected] == [2, 3]


def test_pages_by_number(server):
    pages = {"1": numbered(1, 2), "2": numbered(3), "3": []}
    server.routes["/api"] = lambda request: reply(pages[query(request)["p"]])
    rows, _ = parted(api(server, paging={"by": "page", "parameter": "p"}))
    assert [r.instruction for r in rows] == ["Q1", "Q2", "Q3"] and len(server.asked) == 3


def test_pages_by_cursor(server):
    pages = {None: ("two", numbered(1)), "two": ("three", []), "three": (None, numbered(2))}
    server.routes["/api"] = lambda request: reply({"meta": {"next": pages[query(request).get("after")][0]}, "rows": pages[query(request).get("after")][1]})
    rows, _ = parted(api(server, records="rows", paging={"by": "cursor", "parameter": "after", "at": "meta.next"}))
    assert [r.instruction for r in rows] == ["Q1", "Q2"]


def test_pages_by_link(server):
    server.routes["/api"] = reply(numbered(1), Link=f'<{server.url}/two?x=1>; rel="next"')
    server.routes["/two"] = reply(numbered(2))
    assert len(parted(api(server, parameters={"size": "1"}, paging={"by": "link"}))[0]) == 2 and server.paths() == ["/api?size=1", "/two?x=1"]
    server.routes |= {"/api": reply({"rows": numbered(1), "next": "/three"}), "/three": reply({"rows": numbered(2), "next": ""})}
    assert len(parted(api(server, records="rows", paging={"by": "link", "at": "next"}))[0]) == 2


@pytest.mark.parametrize(
    ("answer", "options", "words"),
    [
        (reply({"next": "a", "rows": []}), {"records": "rows", "paging": {"by": "cursor", "at": "next"}}, "circle"),
        (reply({"next": "/api", "rows": []}), {"records": "rows", "paging": {"by": "link", "at": "next"}}, "circle"),
        (reply({"next": "http://elsewhere.example/", "rows": []}), {"records": "rows", "paging": {"by": "link", "at": "next"}}, "another host"),
        (reply(numbered(1)), {"paging": {"by": "page"}}, "same as the one before"),
        (reply({"rows": 5}), {"records": "rows"}, "no list of records"),
        (reply({"rows": []}), {}, "no list of records"),
        ((200, b"<!doctype html><p>log in", {"Content-Type": "text/html"}), {}, "not JSON but HTML"),
        ((200, b"[{", {"Content-Type": "application/json"}), {}, "not JSON"),
        ((200, b'[{"instruction": NaN}]', {}), {}, "not JSON"),
        ((200, b"\xff\xfe", {}), {}, "not JSON"),
        ((200, b"damaged", {"Content-Encoding": "gzip"}), {}, "damaged"),
        ((404, b"", {}), {}, "404"),
        ((410, b"", {}), {}, "410"),
        ((302, b"", {"Location": "/api"}), {}, "redirects without end"),
    ],
)
def test_a_server_that_is_at_fault(server, answer, options, words):
    server.routes["/api"] = answer
    with pytest.raises(DataError, match=words) as caught:
        parted(api(server, **options))
    assert caught.value.where.startswith(server.url)


def test_a_reply_longer_than_memory_should_hold(server, monkeypatch):
    monkeypatch.setattr("tasks.sources.http.MOST_BYTES", 100)
    server.routes["/api"] = reply(numbered(*range(20)))
    with pytest.raises(DataError, match="longer than 100 bytes"):
        parted(api(server))


def test_what_waiting_cures_is_tried_again(server):
    answers = iter([(503, b"", {}), (429, b"", {"Retry-After": "0"}), reply(numbered(1))])
    server.routes["/api"] = lambda request: next(answers)
    assert len(parted(api(server))[0]) == 1 and len(server.asked) == 3


@pytest.mark.parametrize("answer", [(500, b"", {}), (429, b"", {}), (200, b"cut", {"Content-Length": "100", "Connection": "close"})])
def test_what_waiting_may_cure_is_transient_in_the_end(server, answer):
    server.routes["/api"] = answer
    with pytest.raises(TransientError):
        parted(api(server))
    assert len(server.asked) == 3


def test_a_server_that_is_away():
    with pytest.raises(TransientError, match="cannot be reached"):
        parted(reader(kind="http", url=f"http://127.0.0.1:{free_port()}/", **QUICK))


def test_a_secret_comes_from_the_environment_and_goes_nowhere_else(server, monkeypatch):
    with pytest.raises(ValidationError, match="secret"):
        SOURCE.validate_python({"kind": "http", "url": "http://x/", "licence": "x", "consent": "y", "headers": {"X-Api-Key": "12345"}})
    with pytest.raises(ValidationError, match="password"):
        SOURCE.validate_python({"kind": "http", "url": "http://a:b@x/", "licence": "x", "consent": "y"})
    with pytest.raises(ValidationError, match="secret"):
        SOURCE.validate_python({"kind": "http", "url": "http://x/", "licence": "x", "consent": "y", "parameters": {"api_key": "12345"}})
    headers = {"Authorization": "Bearer ${THE_TOKEN}"}
    with pytest.raises(ContractError, match="THE_TOKEN"):
        parted(api(server, headers=headers))
    monkeypatch.setenv("THE_TOKEN", "s3cret")
    other = Server()
    server.routes["/api"] = (302, b"", {"Location": f"{other.url}/api"})
    other.routes["/api"] = reply(numbered(1))
    one = api(server, headers=headers)
    assert len(parted(one)[0]) == 1
    other.http.shutdown()
    other.http.server_close()
    assert server.asked[0][1]["authorization"] == "Bearer s3cret" and "authorization" not in other.asked[0][1]
    assert "s3cret" not in one.conf.model_dump_json()
    server.routes["/api"] = (403, b"", {})
    with pytest.raises(ContractError, match="403"):
        parted(api(server, headers=headers))


def test_requests_keep_their_distance(server):
    server.routes["/api"] = lambda request: reply({"1": numbered(1), "2": numbered(2), "3": []}[query(request)["page"]])
    start = time.monotonic()
    parted(api(server, per_second=20, paging={"by": "page"}))
    assert time.monotonic() - start >= 0.1, "three requests at 20 a second"


def test_identity_is_what_is_yielded_in_whatever_order_and_is_fetched_once(server):
    server.routes["/api"] = reply([*numbered(1, 2), "bad"])
    one = api(server)
    first = one.identity()
    server.routes["/api"] = reply([*numbered(2, 1), "bad"])
    assert api(server).identity() == first
    assert len(parted(one)[0]) == 2 and len(server.asked) == 2, "the copy is read"
    server.routes["/api"] = reply(numbered(1, 2))
    assert api(server).identity() != first


def test_the_interval_goes_into_the_query(server):
    rows = [{**GOOD, "at": f"2026-01-0{day}T00:00:00+00:00"} for day in range(1, 6)]
    server.routes["/api"] = lambda request: reply([row for row in rows if row["at"] <= query(request)["before"]])

    def night(day):
        return api(server, until=f"2026-01-0{day}T02:00:00+00:00", parameters={"before": "{interval_end}"})

    second = night(2).identity()
    assert len(parted(night(2))[0]) == 2
    rows.append({**GOOD, "at": "2026-01-06T00:00:00+00:00"})
    assert night(2).identity() == second != night(3).identity()


anything = st.recursive(st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=9), lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["instruction", "output", "messages", "x"]), inner, max_size=3), max_leaves=8)  # fmt: skip


@settings(max_examples=40, deadline=None)
@given(st.lists(anything, max_size=6))
def test_in_is_out_plus_rejected(one_server, found):
    one_server.routes["/api"] = reply(found)
    rows, rejected = parted(api(one_server))
    assert len(rows) + len(rejected) == len(found)
