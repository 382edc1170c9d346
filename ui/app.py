"""The page people use: ask, rate, correct, comment.

streamlit run ui/app.py --server.address 127.0.0.1 --server.port 18501
"""

from __future__ import annotations

import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # streamlit runs this file as a script

from flywheel.records import FeedbackIn, Message
from ui import client

EXAMPLES = ("What does `shutil.copytree` do?", "What does `textwrap.dedent` do?", "What is `collections.OrderedDict`?")


@dataclass
class Turn:
    """A message on the page, and the id under which feedback for it goes."""

    message: Message
    answer_id: str = ""
    key: str = field(default_factory=lambda: uuid.uuid4().hex)
    thanked: bool = False


def history() -> list[Turn]:
    """This session's conversation."""
    return st.session_state.setdefault("history", [])  # type: ignore[no-any-return]


def ask(question: str) -> None:
    """Put the question, and answer it."""
    history().append(Turn(Message(role="user", content=question)))
    with st.spinner("Thinking …"):
        try:
            answer_id, text = client.chat([t.message for t in history()], st.session_state.max_tokens, st.session_state.temperature, st.session_state.user)
        except client.ServingError as error:
            history().pop()
            st.session_state.problem = str(error)
            return
    history().append(Turn(Message(role="assistant", content=text), answer_id))


def rate(turn: Turn, thumb: str | None, correction: str = "", comment: str = "") -> None:
    """Send feedback for an answer; sent twice, it is stored once."""
    key = uuid.uuid5(uuid.UUID(turn.key), f"{thumb}\n{correction}\n{comment}").hex
    given = FeedbackIn(
        answer_id=turn.answer_id, idempotency_key=key, thumb=thumb, correction=correction or None, comment=comment or None,
        user=st.session_state.user, consent=st.session_state.consent,
    )  # type: ignore[arg-type]  # fmt: skip
    try:
        client.send(given)
    except client.ServingError as error:
        st.session_state.problem = str(error)
        return
    turn.thanked = True
    st.toast("Thank you. It is stored.", icon=":material/check:")


def feedback_form(turn: Turn) -> None:
    """Thumbs, and a correction for an answer that was not good."""
    thumb = st.feedback("thumbs", key=f"thumb-{turn.key}")
    if thumb is not None and st.session_state.get(f"sent-{turn.key}") != thumb:
        st.session_state[f"sent-{turn.key}"] = thumb
        rate(turn, "up" if thumb else "down")
    with st.expander("Correct it, or say more", expanded=thumb == 0), st.form(f"form-{turn.key}", border=False):
        correction = st.text_area("What should the answer have been?", value=turn.message.content, height=120)
        comment = st.text_input("Comment (optional)", max_chars=5000)
        if st.form_submit_button("Send", type="primary"):
            changed = correction.strip() != turn.message.content.strip()
            if changed or comment.strip():
                rate(turn, "down" if changed else None, correction.strip() if changed else "", comment.strip())
            else:
                st.info("Change the answer or write a comment first.")
    if turn.thanked:
        st.caption(":material/check: your feedback is stored")


def sidebar() -> None:
    """Who asks, how, and whether it may be learned from."""
    with st.sidebar:
        st.title("Flywheel")
        try:
            version = client.version()
            st.caption("The base model answers." if version == "base" else f"Version {version} answers.")
        except client.ServingError as error:
            st.error(str(error))
        st.text_input("Your name", value="anonymous", key="user", max_chars=128)
        st.checkbox("My feedback may be used for training", value=False, key="consent")
        with st.expander("Answer settings"):
            st.slider("Longest answer (tokens)", 16, 512, 128, key="max_tokens")
            st.slider("Temperature", 0.0, 1.5, 0.0, key="temperature")
        if st.button("New conversation", width="stretch"):
            st.session_state.history = []
            st.rerun()


def page() -> None:
    """The whole page."""
    st.set_page_config(page_title="Flywheel", page_icon=":material/cycle:", layout="centered")
    sidebar()
    if not history():
        st.header("Ask, rate, correct")
        st.write("Every correction you send is learned from in the next turn.")
        for question in EXAMPLES:
            if st.button(question, key=f"example-{question}"):
                ask(question)
                st.rerun()
    for turn in history():
        with st.chat_message(turn.message.role):
            st.markdown(turn.message.content or "_(an empty answer)_")
            if turn.message.role == "assistant":
                feedback_form(turn)
    problem = st.session_state.pop("problem", None)
    if problem:
        st.error(problem)
    asked = st.chat_input("Ask a question")
    if asked:
        ask(asked)
        st.rerun()


page()
