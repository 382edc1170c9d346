"""What people say of an answer: thumb, stars, tags, a comment, and the answer as it should have been, with what that changes.

Each time it is sent whole, and supersedes what the same person sent before; sent twice, it is stored once.
"""

from __future__ import annotations

import uuid
from typing import Any, Literal

import streamlit as st
from pydantic import ValidationError

from flywheel.records import FeedbackIn, Preference
from ui import client
from ui.asking import Answer
from ui.client import ServingError
from ui.difference import difference
from ui.doors import Person

TAGS = ("wrong", "incomplete", "made up", "unclear", "too long", "harmful", "outdated", "well said")
LONGEST = 20_000


def give(answer: Answer, who: Person, **said: Any) -> bool:
    """Send feedback; True when it is committed, else `answer.unsent` says why not."""
    body = {"answer_id": answer.answer_id, "user": who.name, "source": "ui", "consent": st.session_state.get("consent", False), **said}
    if answer.given:
        body["supersedes"] = answer.given.idempotency_key
    try:
        key = uuid.uuid5(uuid.UUID(answer.key), repr(sorted((k, str(v)) for k, v in body.items()))).hex
        given = FeedbackIn(idempotency_key=key, **body)
        answer.given_id = client.send(given, who.token)
    except ValidationError as error:
        answer.unsent = f"That cannot be sent: {error.errors()[0]['msg']}."
        return False
    except ServingError as error:
        answer.unsent = f"{error} Nothing you wrote is lost: send it again."
        return False
    answer.unsent = ""
    answer.given = given
    return True


def signal(answer: Answer, who: Person, what: Literal["copied", "regenerated", "abandoned"]) -> None:
    """Note what somebody did with an answer, beside what they said of it; nobody waits for it, and nothing hangs on it."""
    try:
        client.send(FeedbackIn(answer_id=answer.answer_id, idempotency_key=f"{what}-{answer.key}", user=who.name, source="ui", signal=what), who.token)
    except ServingError:
        return


def prefer(left: Answer, right: Answer, who: Person, better: Literal["left", "right", "tie", "both bad"]) -> bool:
    """Send which of two answers is better."""
    return give(left, who, preference=Preference(other_id=right.answer_id, side="left", better=better))


@st.fragment
def form(answer: Answer, who: Person) -> None:
    """The thumbs below an answer, and behind them everything else; a click here draws only this again."""
    before = answer.given
    default = None if before is None or before.thumb is None else int(before.thumb == "up")
    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        thumb = st.feedback("thumbs", key=f"thumb-{answer.key}", default=default, on_change=_thumb, args=(answer, who))
        if answer.given:
            st.markdown(":green-badge[:material/check: stored]")
            st.button("Withdraw", key=f"undo-{answer.key}", type="tertiary", on_click=take_back, args=(answer, who))
    if answer.unsent:
        st.error(answer.unsent, icon=":material/error:")
    chosen: Literal["up", "down"] | None = None if thumb is None else "up" if thumb else "down"
    with st.expander("Say more, or correct it", expanded=chosen == "down", icon=":material/edit:", key=f"more-{answer.key}-{chosen}"):
        _more(answer, who, chosen)


def _thumb(answer: Answer, who: Person) -> None:
    thumb, before = st.session_state[f"thumb-{answer.key}"], answer.given
    kept = {} if before is None else {"rating": before.rating, "tags": before.tags, "comment": before.comment, "correction": before.correction}
    give(answer, who, thumb=None if thumb is None else "up" if thumb else "down", **kept)


def _more(answer: Answer, who: Person, thumb: Literal["up", "down"] | None) -> None:
    before = answer.given
    correction = st.text_area(
        "The answer as it should be", value=(before and before.correction) or answer.text, height=140, max_chars=LONGEST, key=f"correction-{answer.key}"
    )
    changed = correction.strip() != answer.text.strip()
    if changed:
        st.html(f"<div class='difference' role='group' aria-label='What your correction changes'>{difference(answer.text.strip(), correction.strip())}</div>")
    tags = st.pills("What is it?", TAGS, selection_mode="multi", default=before.tags if before else None, key=f"tags-{answer.key}")
    comment = st.text_input("Comment", value=(before and before.comment) or "", max_chars=5000, key=f"comment-{answer.key}", placeholder="Optional")
    with st.container(horizontal=True, vertical_alignment="center"):
        stars = st.feedback("stars", key=f"stars-{answer.key}", default=before.rating - 1 if before and before.rating else None)
        if st.button("Send", type="primary", key=f"send-{answer.key}"):
            said = {"rating": None if stars is None else stars + 1, "tags": tuple(tags or ()), "comment": comment.strip() or None}
            if changed and not correction.strip():
                st.info("The correction is empty. Write the better answer, or put the old one back.")
            elif not (changed or any(said.values())):
                st.info("Change the answer, choose a tag or stars, or write a comment first.")
            else:
                give(answer, who, thumb=thumb or ("down" if changed else None), correction=correction.strip() if changed else None, **said)
                st.rerun()


def take_back(answer: Answer, who: Person) -> None:
    """Withdraw what was said of an answer."""
    try:
        client.withdraw(answer.given_id, who.name, who.token)
    except ServingError as error:
        answer.unsent = str(error)
        return
    answer.given, answer.given_id, answer.unsent, answer.key = None, "", "", uuid.uuid4().hex  # its widgets begin anew
