"""Review queue: what is in doubt, one item at a time. Each decision is kept with the name of who made it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from ui import client
from ui.client import ServingError
from ui.difference import difference
from ui.doors import Person, needs
from ui.showing import body_of, version_of

DID = {"approve": "approved", "edit": "edited", "reject": "rejected", "skip": "skipped"}
ICONS = {"approve": ":material/check:", "edit": ":material/edit:", "reject": ":material/close:", "skip": ":material/skip_next:"}


def page(who: Person) -> None:
    """The first item that waits, and what was decided before."""
    needs(who, "reviewer")
    st.title("Review queue")
    try:
        found = client.call("GET", "/v1/review", who.token, reviewer=who.name, limit=50)
    except ServingError as error:
        st.error(str(error), icon=":material/cloud_off:")
        return
    items = found["data"]
    if found.get("label_studio"):
        st.link_button("Open in Label Studio", found["label_studio"], icon=":material/open_in_new:")
    if items:
        st.caption(f"{len(items)}{' or more' if len(items) == 50 else ''} waiting. Keys: A approve, E edit, X reject, S skip.")
        _item(items[0], who)
    else:
        st.success("Nothing waits for a person. New doubts come with the next curation.", icon=":material/done_all:")
    _decided(found["decided"])


def _item(item: dict[str, Any], who: Person) -> None:
    about = "correction" if item["correction"] else "answer"
    with st.container(border=True):
        st.markdown(f":orange-badge[:material/help: {item['reason']}]")
        st.caption(f"{version_of(item['model_version'])} · is this {about} right?")
        st.markdown(f"**{body_of(item['prompt'])}**")
        if item["input"]:
            st.markdown(body_of(item["input"]))
        if item["correction"]:
            st.html(f"<div class='difference' role='group' aria-label='The correction, as a change of the answer'>"
                    f"{difference(item['response'], item['correction'])}</div>")  # fmt: skip
        else:
            st.markdown(f"> {item['response']}")
    edited = st.session_state.get("editing") == item["id"]
    text = item["correction"] or item["response"]
    if edited:
        text = st.text_area("The answer as it should be", value=text, height=160, max_chars=20_000, key=f"edit-{item['id']}")
    st.text_input("Comment", max_chars=5000, key=f"comment-{item['id']}", placeholder="Optional: why")
    with st.container(horizontal=True, key="decisions"):
        if edited:
            st.button("Save the edit", type="primary", on_click=_decide, args=(item, who, "edit"), icon=":material/save:", shortcut="Ctrl+Enter")
            st.button("Back", on_click=_edit, args=("",), shortcut="Esc")
        else:
            for decision, key in (("approve", "A"), ("edit", "E"), ("reject", "X"), ("skip", "S")):
                act, args = (_edit, (item["id"],)) if decision == "edit" else (_decide, (item, who, decision))
                kind = "primary" if decision == "approve" else "secondary"
                st.button(decision.capitalize(), on_click=act, args=args, key=decision, icon=ICONS[decision], shortcut=key, type=kind, width="stretch")  # type: ignore[arg-type]


def _edit(item_id: str) -> None:
    st.session_state.editing = item_id


def _decide(item: dict[str, Any], who: Person, decision: str) -> None:
    body = {"reviewer": who.name, "decision": decision, "comment": st.session_state.get(f"comment-{item['id']}") or None}
    if decision == "edit":
        body["correction"] = st.session_state[f"edit-{item['id']}"].strip()
    try:
        client.call("POST", f"/v1/review/{item['id']}", who.token, body)
    except ServingError as error:
        st.toast(str(error), icon=":material/error:")
        return
    st.session_state.editing = ""
    st.toast(DID[decision].capitalize() + ".", icon=ICONS[decision])


def _decided(rows: list[dict[str, Any]]) -> None:
    with st.expander("Who decided what", icon=":material/history:"):
        for row in rows:
            st.markdown(f"**{row['reviewer']}** {DID[row['decision']]} “{row['prompt'][:100]}” · {row['at'][:16].replace('T', ' ')}")
        if not rows:
            st.caption("Nothing yet.")
