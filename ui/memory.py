"""What this process remembers of each person's work, so that a reload, a second tab or a broken connection loses nothing.

Streamlit forgets a session when its page is reloaded. The address keeps an id (`?chat=…`), this keeps what belongs to it, for whom it
belongs to. It lives as long as the process, and holds the newest of each person's.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from typing import Any, TypeVar

import streamlit as st

EACH, ALL = 20, 2000  # of one person and kind; altogether
T = TypeVar("T")
Key = tuple[str, str, str]  # person, kind, id


class Shelf:
    """Things by person, kind and id, the one last touched last."""

    def __init__(self) -> None:
        self.things: dict[Key, Any] = {}
        self.lock = threading.Lock()

    def take(self, person: str, kind: str, name: str, make: Callable[[], T]) -> T:
        """The thing of that id, made when there is none."""
        with self.lock:
            found = self.things.pop((person, kind, name), None) or make()
            self.things[(person, kind, name)] = found
            mine = [key for key in self.things if key[:2] == (person, kind)]
            for key in [*mine[:-EACH], *list(self.things)[:-ALL]]:
                self.things.pop(key, None)
            return found  # type: ignore[no-any-return]

    def of(self, person: str, kind: str) -> dict[str, Any]:
        """All of a person's things of a kind by id, the newest first."""
        with self.lock:
            return {key[2]: thing for key, thing in reversed(self.things.items()) if key[:2] == (person, kind)}


@st.cache_resource(show_spinner=False)
def shelf() -> Shelf:
    """The one of this process."""
    return Shelf()


def current(person: str, kind: str, make: Callable[[], T]) -> T:
    """What the address names, or something new, which the address then names."""
    name = st.query_params.get(kind) or st.session_state.get(f"current-{kind}") or ""
    if not name.isalnum() or len(name) > 40:
        name = uuid.uuid4().hex
    st.session_state[f"current-{kind}"] = st.query_params[kind] = name
    return shelf().take(person, kind, name, make)


def switch(kind: str, name: str = "") -> None:
    """Go on with another thing of this kind, or with a new one. A callback: the address changes with the next run."""
    st.session_state[f"current-{kind}"] = st.query_params[kind] = name or uuid.uuid4().hex
