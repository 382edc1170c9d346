"""My feedback: what a person said, and the button that takes it back; what they accepted."""

from __future__ import annotations

import streamlit as st

from ui import client
from ui.client import ServingError
from ui.doors import Person
from ui.showing import version_of


def page(who: Person) -> None:
    """Their records, newest first."""
    st.title("My feedback")
    st.write("What you take back is left out of everything that is learned later. To be forgotten altogether, ask your operator.")
    try:
        records = client.call("GET", "/v1/feedback", who.token, user=who.name)["data"]
        notice = client.call("GET", "/v1/policy", who.token, user=who.name)
    except ServingError as error:
        st.error(str(error), icon=":material/cloud_off:")
        return
    if not records:
        st.info("You have said nothing yet. Ask something in the chat, and rate the answer.", icon=":material/chat:")
    for record in records:
        if record["withheld"].startswith("superseded"):  # it was said anew
            continue
        with st.container(border=True):
            st.caption(
                f"{record['timestamp'][:16].replace('T', ' ')} · {version_of(record['model_version'])}" + ("" if record["consent"] else " · not for training")
            )
            st.markdown(f"**{record['prompt'][:300]}**")
            said = [record["verdict"], record["comment"], ", ".join(record["tags"])]
            st.write(" · ".join(filter(None, said)) or "no verdict")
            if record["correction"]:
                st.markdown(f"> {record['correction'][:600]}")
            if record["withheld"]:
                st.caption(f":material/block: {record['withheld']}")
            else:
                st.button("Withdraw", key=record["id"], on_click=_withdraw, args=(record["id"], who), icon=":material/undo:")
    with st.expander("The usage policy that you accepted", icon=":material/policy:"):
        st.markdown(notice["text"])


def _withdraw(record: str, who: Person) -> None:
    try:
        client.withdraw(record, who.name, who.token)
        st.toast("Withdrawn. Nothing later is learned from it.", icon=":material/undo:")
    except ServingError as error:
        st.toast(str(error), icon=":material/error:")
