"""What holds for every step: it is listed, pure, idempotent, gives back what it did not change, and hangs on nothing."""

import inspect
from typing import get_args

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from flywheel.config import steps
from flywheel.config.steps import DEFAULT_RECORD_STEPS
from tasks.cleaning import RECORD_STEPS
from tasks.cleaning.record import Texts

JUDGES = {options.step: RECORD_STEPS[type(options)](options) for options in DEFAULT_RECORD_STEPS}
CLEAN = Texts(("You are kind.",), "What does `shutil.copy` do?", "in short", "Copy data and mode bits. Return the file's destination.", "Nothing.")


def run(texts):
    """The record after every default step, and the step that rejects it."""
    for step, judge in JUDGES.items():
        texts, reason = judge(texts)
        if reason:
            return texts, f"{step}: {reason}"
    return texts, ""


def test_every_option_class_has_a_maker_and_a_place_in_the_default_order():
    classes = {c for _, c in inspect.getmembers(steps, inspect.isclass) if issubclass(c, steps.Step) and c is not steps.Step}
    assert classes == set(RECORD_STEPS) == set(map(type, DEFAULT_RECORD_STEPS))
    assert all(get_args(c.model_fields["step"].annotation) == (c().step,) for c in classes)


def test_a_clean_record_passes_as_the_same_object():
    for step, judge in JUDGES.items():
        assert judge(CLEAN) == (CLEAN, ""), step
        assert judge(CLEAN)[0] is CLEAN, step


PIECES = (
    "a@b.co", "jane.doe@gmail.com", "+49 30 123456", "(415) 555-2671", "call 030 123456", "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "85.214.132.117",
    "2a02:8108::1", "ghp_" + "a1B2c3" * 6, "api_key = 'a1B2c3D4e5F6g7H8'", "https://u:p4ss@h.example/", "-----BEGIN PRIVATE KEY-----" + "A1b2" * 20,
    "<email>", "<secret>", "eyJhbGciOiJI.eyJzdWIiOiIx.c2lnbmF0dXJl", "Bearer a1B2c3D4e5F6g7H8i9J0", "dirt", "as an AI language model", "Ã©", "â€™", "\u200b", "\u200d", "\u202e",
    "\u0301", "e", "K", "\r\n", "\x00", "\u00a0", "\n\n\n\n\n", " ", ".", ",", "-", "/", ":", "=", "@", "(", ")", "+", "0", "1", "00", "é", "👩", "💻", "Die Katze ist auf dem Dach",
)  # fmt: skip
TEXT = st.one_of(st.lists(st.sampled_from(PIECES), max_size=12).map("".join), st.text(max_size=80))

# As long as an answer may be, and longer once its address is masked.
FULL = " ".join(f"the {a}{b} of this is there" for a in "abcdefghijklm" for b in "abcdefghijklmnopqrstuvwxyz")[: 8000 - 7] + " a@b.co"


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.builds(Texts, st.lists(TEXT, max_size=2).map(tuple), TEXT, TEXT, TEXT, TEXT))
@example(Texts((), "q", "", "e\u200d\u0301\u200d👩", ""))
@example(Texts((), "q", "", "Ã\u200b© 1.2.3.4:5.6.7.89", ""))
@example(Texts((), "q", "", FULL, ""))
def test_cleaning_twice_changes_and_rejects_nothing_more(texts):
    once, reason = run(texts)
    assert run(texts) == (once, reason)
    if not reason:
        again, later = run(once)
        assert later == ""
        assert again is once


@settings(max_examples=150, deadline=None)
@given(TEXT)
def test_each_step_alone_is_idempotent(text):
    for step, judge in JUDGES.items():
        once, _ = judge(Texts((), text, "", text))
        assert judge(once)[0] is once, step


@pytest.mark.timeout(120)
@pytest.mark.parametrize("unit", [*"a1=@é", "a.", "1-", "1.2.3.44:", "://a:b@", "-----BEGIN PRIVATE KEY-----", "eyJ"])
def test_a_line_of_a_megabyte_hangs_no_step(unit):
    long = (unit * (1_000_000 // len(unit) + 1))[:1_000_000]
    for judge in JUDGES.values():
        long = judge(Texts((), "q", "", long))[0].output


def test_what_is_said_of_one_text_holds_for_all_of_them():
    dirty = "Write to jane@doe.org\u200b now"
    texts, reason = run(Texts((dirty,), dirty, dirty, dirty, dirty))
    assert (texts, reason) == (Texts(("Write to <email> now",), *["Write to <email> now"] * 4), "")
