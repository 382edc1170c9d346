"""Small pieces that several pages show: who answered, the sources, a text of any length, a problem in words."""

from __future__ import annotations

import streamlit as st

from ui.asking import Answer

SHOWN = 4000  # characters of a question


def version_of(version: str) -> str:
    """A version as people call it."""
    return "" if not version else "base model" if version == "base" else f"version {version}" if version.isdigit() else version


def body_of(text: str) -> str:
    """A text as it is shown: a very long one by its beginning, whole it goes to the model."""
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… *({len(text):,} characters)*"


def sources(answer: Answer) -> None:
    """What the answer rests on, when documents were searched for it."""
    used = [source for source in answer.sources if source.get("used", True)]
    if not used:
        return
    with st.expander(f"{len(used)} sources", icon=":material/menu_book:"):
        for number, source in enumerate(used, 1):
            title, address = str(source.get("title") or source.get("document") or "untitled"), str(source.get("document") or "")
            st.markdown(f"**{number}.** " + (f"[{title}](<{address}>)" if address.startswith(("https://", "http://")) else title))
            if source.get("text"):
                st.caption(str(source["text"])[:600])
