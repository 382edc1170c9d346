"""The page people use: where it begins, for everyone who comes.

    streamlit run ui/app.py --server.address 127.0.0.1 --server.port 18501

Each page is one module in ui/views/ (Streamlit would run whatever is in a folder `pages` as a script of its own). docs/ui.md shows them.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Literal

import streamlit as st

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # streamlit runs this file as a script

from ui import doors, memory
from ui.doors import Person
from ui.views import batch, chat, compare, mine, playground, quality, review

HERE = Path(__file__).resolve().parent
DRAFTS = st.components.v2.component("flywheel-drafts", js=(HERE / "drafts.js").read_text())


def sidebar(who: Person) -> None:
    """Who is here, and whether what they say may be learned from."""
    with st.sidebar:
        kept: dict[str, bool] = memory.shelf().take(who.name, "consent", "", dict)
        kept["on"] = st.toggle("My feedback may be used for training", value=kept.get("on", False), key=f"consent-{who.name}")
        st.session_state.consent = kept["on"]
        if doors.with_login():
            st.caption(who.name)
            st.button("Log out", on_click=st.logout, type="tertiary", icon=":material/logout:")
        else:
            st.text_input("Your name", key="user", max_chars=128, placeholder="anonymous", bind="query-params")


def main() -> None:
    """The page that the address names, behind the doors; it is looked up first, so that who has to log in comes back to it."""
    st.set_page_config(page_title="Flywheel", page_icon=":material/cycle:", layout="centered")
    st.html(HERE / "style.css")
    st.logo(HERE / "logo.svg")
    who = doors.someone()

    def entry(module, title: str, icon: str, default: bool = False):  # type: ignore[no-untyped-def]
        path = module.__name__.rpartition(".")[2]
        shown: Literal["visible", "hidden"] = "hidden" if module is review and not (who and who.may("reviewer")) else "visible"
        return st.Page(partial(module.page, who), title=title, icon=f":material/{icon}:", url_path=path, default=default, visibility=shown)

    pages = [
        entry(chat, "Chat", "chat", default=True), entry(compare, "Side by side", "compare_arrows"), entry(playground, "Playground", "tune"),
        entry(batch, "Batch", "table_rows"), entry(review, "Review queue", "rate_review"), entry(quality, "Quality", "monitoring"),
        entry(mine, "My feedback", "account_circle"),
    ]  # fmt: skip
    chosen = st.navigation(pages, position="sidebar" if doors.is_inside(who) else "hidden")
    sidebar(doors.enter(who))
    DRAFTS(key="drafts")
    chosen.run()  # last: it may follow an answer for a while


main()
