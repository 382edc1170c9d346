"""Every page in a real browser, against the real service: what people do there, and what goes wrong."""

import csv
import io
import re
import signal
import time
import uuid

import pytest

from flywheel import ledger
from flywheel.ledger import review
from flywheel.settings import settings
from tests.conftest import free_port
from tests.ui.screens import PATIENCE, enter, ready

expect = pytest.importorskip("playwright.sync_api").expect
pytestmark = pytest.mark.slow  # ten minutes of a browser
expect.set_options(timeout=60_000)


def ask(page, question, field="Ask a question"):
    page.get_by_role("textbox", name=field).fill(question)
    page.keyboard.press("Enter")


def answered(page):
    page.get_by_role("button", name="Regenerate").wait_for(timeout=PATIENCE)
    ready(page)


def said_by(user):
    return [r for r in ledger.of_person(user, 50) if not r.withheld]


def test_ask_see_it_stream_correct_it_and_find_the_record_in_the_ledger(page):
    enter(page, "?user=Ada")
    ask(page, "What is a wheel?")
    page.get_by_role("button", name="Stop").wait_for()
    lengths = set()
    while page.get_by_role("button", name="Stop").is_visible():
        lengths.add(len(page.get_by_label("Chat message from assistant").inner_text()))
    answered(page)
    assert len(lengths) > 2  # it grew before it was whole
    page.get_by_text("My feedback may be used for training").click()
    page.get_by_role("radio", name="Thumbs down").click()
    page.get_by_role("textbox", name="The answer as it should be").fill("A wheel is round.")
    page.get_by_role("textbox", name="Comment").click()
    expect(page.get_by_label("What your correction changes").locator("ins")).to_contain_text("round")
    page.get_by_role("textbox", name="Comment").fill("It rambles.")
    page.get_by_role("button", name="incomplete").click()
    page.get_by_role("button", name="Send", exact=True).click()
    until = time.monotonic() + 60
    while not (said_by("Ada") and said_by("Ada")[0].correction) and time.monotonic() < until:
        page.wait_for_timeout(200)
    (record,) = said_by("Ada")  # the thumb before it is superseded
    assert (record.prompt, record.thumb, record.correction, record.comment) == ("What is a wheel?", "down", "A wheel is round.", "It rambles.")
    assert record.tags == ("incomplete",) and record.consent and record.source == "ui" and record.model_version == "base"
    page.reload()
    ready(page)
    expect(page.get_by_role("textbox", name="The answer as it should be")).to_have_value("A wheel is round.")
    page.goto(f"{settings().ui_url}/mine?user=Ada")
    page.get_by_role("button", name="Withdraw").first.click()
    expect(page.get_by_role("main").get_by_text("withdrawn")).to_be_visible()
    assert not said_by("Ada")


def test_stop_reload_and_a_second_tab_ask_the_model_once(place, page):
    enter(page, "?user=Bo")
    ask(page, "Tell me all")
    page.get_by_role("button", name="Stop").wait_for()
    page.reload()
    twin = page.context.new_page()
    twin.goto(page.url)
    for tab in (page, twin):
        answered(tab)
        expect(tab.get_by_label("Chat message from assistant")).to_have_count(1)
    assert page.get_by_label("Chat message from assistant").inner_text() == twin.get_by_label("Chat message from assistant").inner_text()
    assert asked("Tell me all") == 1
    place.running["serving"].send_signal(signal.SIGSTOP)  # the model is silent: Stop works all the same
    try:
        ask(page, "Tell me more")
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("stopped")).to_be_visible()
    finally:
        place.running["serving"].send_signal(signal.SIGCONT)
    ready(page)  # until then the button of the answer before may still stand there, greyed
    page.get_by_role("button", name="Regenerate").click()
    answered(page)
    expect(page.get_by_text("stopped")).to_have_count(0)


def asked(prompt):
    import sqlalchemy as sa

    from flywheel.ledger.schema import answers

    with ledger.transaction() as db:
        return db.execute(sa.select(sa.func.count()).where(answers.c.prompt == prompt)).scalar_one()


def test_what_is_typed_and_not_sent_survives_a_reload(page):
    enter(page, "?user=Cy")
    page.get_by_role("textbox", name="Ask a question").press_sequentially("half a thou")
    page.reload()
    ready(page)
    expect(page.get_by_role("textbox", name="Ask a question")).to_have_value("half a thou")
    page.keyboard.press("Tab")
    page.get_by_role("textbox", name="Ask a question").press_sequentially("ght")
    page.keyboard.press("Enter")
    answered(page)
    page.reload()
    ready(page)
    expect(page.get_by_role("textbox", name="Ask a question")).to_have_value("")


def test_a_prompt_of_a_megabyte_is_refused_in_words_and_kept(page):
    enter(page, "?user=Di")
    ask(page, "word " * 200_000)
    expect(page.get_by_text("1,000,000 characters").or_(page.get_by_text("999,999 characters"))).to_be_visible()
    expect(page.get_by_role("alert").first).to_contain_text(re.compile("tokens|characters"))
    page.get_by_role("button", name="Reword the question").click()
    page.get_by_role("textbox", name="Your question").fill("short")
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name="Ask this instead").click()
    answered(page)


def test_side_by_side_by_keyboard_is_blind_until_the_choice_and_reaches_the_ledger(page):
    enter(page, "compare?user=Eve")
    ask(page, "Which?", "Ask both")
    page.get_by_role("button", name="Left is better").wait_for(timeout=PATIENCE)
    ready(page)
    assert "base model" not in page.get_by_role("main").inner_text()
    page.get_by_role("heading", name="Which answer is better?").click()
    page.keyboard.press("2")
    expect(page.get_by_text("Stored: right is better")).to_contain_text("base model")
    (record,) = said_by("Eve")
    assert record.preference.better == "right" and record.preference.side == "left" and record.preference.other_id != record.answer_id


def test_the_playground_shows_how_sure_the_model_was(page):
    enter(page, "playground?user=Fay")
    page.get_by_role("textbox", name="Question").fill("How sure?")
    page.get_by_role("textbox", name="System prompt").fill("Be brief.")
    page.get_by_role("button", name="Run").click()
    page.get_by_text("perplexity").wait_for(timeout=PATIENCE)
    token = page.locator(".tokens span").first
    token.focus()
    assert re.fullmatch(r"\d+\.\d% · log-probability -?\d+\.\d{3}", token.get_attribute("data-said"))
    expect(page.get_by_text("temperature 0, top p 1, max tokens 128, seed 0, with a system prompt")).to_be_visible()


def offered(page, *texts):
    for text in texts:
        answer = ledger.add_answer(text, "", "Perhaps.", "base", "somebody")
        with ledger.transaction() as db:
            review.offer(db, [review.ReviewItem(answer_id=answer, reason="The model was unsure.", priority=len(texts) - texts.index(text))])


def test_review_by_keyboard_approves_edits_rejects_and_says_who(page):
    offered(page, "First doubt", "Second doubt", "Third doubt", "Fourth doubt")
    enter(page, "review?user=Gil")
    for key, text in (("a", "First doubt"), ("x", "Second doubt"), ("s", "Third doubt")):
        expect(page.get_by_role("main").get_by_text(text, exact=True)).to_be_visible()
        page.get_by_role("heading", name="Review queue").click()
        page.keyboard.press(key)
    expect(page.get_by_role("main").get_by_text("Fourth doubt", exact=True)).to_be_visible()
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name="The answer as it should be").fill("Surely.")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_text("Nothing waits for a person")).to_be_visible()
    page.get_by_text("Who decided what").click()
    expect(page.get_by_text("approved “First doubt”")).to_be_visible()
    found = {r.prompt: r for r in said_by("Gil")}
    assert set(found) == {"First doubt", "Second doubt", "Fourth doubt"} and found["Fourth doubt"].correction == "Surely."
    assert {r.source for r in found.values()} == {"review"}
    enter(page, "review?user=Hal")
    expect(page.get_by_role("main").get_by_text("Third doubt", exact=True)).to_be_visible()  # a skip leaves it to others


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.csv", b"\x89PNG\r\n\x1a\n\x00\x00", "not a text file"),
        ("a.csv", b"name,age\nx,3\n", "names no column"),
        ("a.csv", b"prompt\n" + b"why?\n" * 1_000_000, "more than 10,000 prompts"),
        ("a.jsonl", b'{"prompt": "x"}\n{broken\n', "Line 2 is not JSON"),
        ("a.csv", "prompt\nWas heißt „Größe“?\n".encode("cp1252"), "read as Windows-1252"),
    ],
)
def test_an_upload_that_cannot_be_used_is_named_in_words(page, name, data, words):
    enter(page, "batch?user=Ida")
    page.locator("input[type=file]").set_input_files({"name": name, "mimeType": "text/csv", "buffer": data})
    expect(page.get_by_role("alert").first).to_contain_text(words)


def test_batch_answers_a_file_and_survives_a_reload(page):
    enter(page, "batch?user=Jo")
    page.locator("input[type=file]").set_input_files({"name": "q.csv", "mimeType": "text/csv", "buffer": 'id;prompt\n1;Größe?\n2;"a; b"\n'.encode("utf-16")})
    page.get_by_role("button", name="Answer them").click()
    page.wait_for_url(re.compile("job="))
    page.reload()
    page.get_by_role("button", name="Download CSV").wait_for(timeout=PATIENCE)
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    rows = list(csv.DictReader(io.StringIO(download.value.path().read_text("utf-8-sig"), newline="")))
    assert [row["prompt"] for row in rows] == ["Größe?", "a; b"] and all(row["version"] == "base" and row["answer_id"] for row in rows)


def test_quality_tells_what_people_said_and_that_there_is_no_turn_yet(page):
    enter(page, "quality?user=Kim")
    expect(page.get_by_text("Answers rated")).to_be_visible()
    expect(page.get_by_text("No version has been compared yet")).to_be_visible()
    expect(page.get_by_text("No turn has ended yet")).to_be_visible()
    expect(page.get_by_test_id("stVegaLiteChart").first).to_be_visible()


def test_nobody_goes_on_before_the_policy_is_accepted_and_that_is_recorded(page):
    from flywheel.ledger import policy
    from serving.policy import present

    page.goto(f"{settings().ui_url}/?user=Newcomer")
    ready(page)
    assert page.get_by_role("button", name="Go on").is_disabled() and not page.get_by_role("textbox", name="Ask a question").is_visible()
    assert policy.accepted("Newcomer", present()[0]) is None
    enter(page, "?user=Newcomer")
    expect(page.get_by_role("textbox", name="Ask a question")).to_be_visible()
    assert policy.accepted("Newcomer", present()[0]) is not None


def test_no_page_has_a_serious_fault_of_accessibility(browser, place):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    offered(None, f"Is this readable? {uuid.uuid4().hex}")
    faults = []
    for theme in ("light", "dark"):
        context = browser.new_context(color_scheme=theme)
        page = context.new_page()
        for address in ("", "compare", "playground", "batch", "review", "quality", "mine"):
            enter(page, f"{address}?user=Lea")
            page.wait_for_timeout(1000)
            found = axe.run(page).response["violations"]
            faults += [(theme, address, v["id"], v["nodes"][0]["target"]) for v in found if v["impact"] in ("serious", "critical")]
        context.close()
    assert not faults


def test_every_page_fits_a_phone(browser, place):
    context = browser.new_context(viewport={"width": 360, "height": 740}, has_touch=True, is_mobile=True)
    page = context.new_page()
    for address in ("", "compare", "playground", "batch", "review", "quality", "mine"):
        enter(page, f"{address}?user=Moe")
        page.wait_for_timeout(500)
        assert page.get_by_role("main").evaluate("e => e.scrollWidth - e.clientWidth") <= 1, address
    context.close()


def test_login_is_asked_for_roles_are_respected_and_an_expired_login_is_said(place, browser, identity):
    port = free_port()
    secrets = place.folder / "secrets.toml"
    secrets.write_text(f"""
[auth]
redirect_uri = "http://127.0.0.1:{port}/oauth2callback"
cookie_secret = "{uuid.uuid4().hex}{uuid.uuid4().hex}"
client_id = "page"
client_secret = "{uuid.uuid4().hex}"
server_metadata_url = "{identity.url}/.well-known/openid-configuration"
expose_tokens = ["access"]
""")
    at = place.page(port, "--secrets.files", str(secrets))

    def come(**claims):
        identity.claims = claims
        page = browser.new_context().new_page()
        page.goto(f"{at}/review")
        expect(page.get_by_text("Please log in")).to_be_visible()
        assert not page.get_by_test_id("stSidebarNav").is_visible()
        page.get_by_role("button", name="Log in").click()
        ready(page)
        return page

    stranger = come(sub="1", email="stranger@example.org")
    expect(stranger.get_by_text("stranger@example.org has no role here")).to_be_visible()
    user = come(sub="2", email="user@example.org", roles=["user"])
    user.get_by_text("I have read this and agree.").click()
    user.get_by_role("button", name="Go on").click()
    expect(user.get_by_role("link", name="Chat")).to_be_visible()
    assert not user.get_by_role("link", name="Review queue").is_visible()
    user.goto(f"{at}/review")
    expect(user.get_by_text("Not for this account")).to_be_visible()
    reviewer = come(sub="3", email="reviewer@example.org", roles=["reviewer"])
    reviewer.get_by_text("I have read this and agree.").click()
    reviewer.get_by_role("button", name="Go on").click()
    expect(reviewer.get_by_role("link", name="Chat")).to_be_visible()
    reviewer.goto(f"{at}/review")
    expect(reviewer.get_by_role("heading", name="Review queue")).to_be_visible()
    identity.seconds = 3
    late = come(sub="4", email="late@example.org", roles=["user"])
    late.wait_for_timeout(4000)
    late.reload()
    expect(late.get_by_text("Your login has expired")).to_be_visible()


def test_serving_dies_in_the_middle_and_nothing_is_lost(place, page):
    enter(page, "?user=Nia")
    alert = page.get_by_role("alert").first
    for _ in range(5):  # a tiny model may have said all before a busy browser shows that it speaks
        ask(page, "Are you there?")
        page.get_by_role("button", name="Stop").wait_for()
        place.kill("serving")
        alert.or_(page.get_by_role("button", name="Regenerate")).first.wait_for()
        if alert.is_visible():
            break
        place.serving()
        page.get_by_role("button", name="New conversation").click()
        ready(page)
    expect(page.get_by_role("alert").first).to_contain_text(re.compile("broke|reached"))
    expect(page.get_by_text("Are you there?").first).to_be_visible()
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("alert").first).to_contain_text("cannot be reached")
    page.goto(f"{settings().ui_url}/quality?user=Nia")
    expect(page.get_by_role("alert").first).to_contain_text("cannot be reached")
    page.go_back()
    place.serving()
    page.reload()
    ready(page)
    page.get_by_role("button", name="Try again").click()
    answered(page)
