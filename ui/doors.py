"""Who is at the page and what they may do: login, roles, the usage policy.

With an `[auth]` section in Streamlit's secrets (docs/ui.md) people log in by OIDC, and their roles come from a claim of their token.
Without one, as on a laptop, they give a name and may do everything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

import streamlit as st

from flywheel.settings import settings
from ui import client
from ui.client import ServingError

Role = Literal["user", "reviewer", "operator"]
ROLES: tuple[Role, ...] = ("user", "reviewer", "operator")


@dataclass(frozen=True)
class Person:
    """Somebody at the page; the token, where there is one, goes with each request to the service."""

    name: str
    roles: frozenset[str]
    token: str = ""

    def may(self, role: Role) -> bool:
        """Whether they have a role; an operator has them all, and who may review may ask."""
        return bool(self.roles & set(ROLES[ROLES.index(role) :]))


def with_login() -> bool:
    """Whether this installation has an identity provider."""
    return bool(st.secrets.load_if_toml_exists()) and "auth" in st.secrets


def roles_of(claims: Mapping[str, Any], path: str) -> frozenset[str]:
    """The roles in a claim: a list or a text, at a path like `realm_access.roles`; without the claim, none."""
    found: Any = claims
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    names = found.replace(",", " ").split() if isinstance(found, str) else found if isinstance(found, list | tuple) else []
    return frozenset(str(name) for name in names) & set(ROLES)


def someone() -> Person | None:
    """Who is there; None for who has still to log in, or again."""
    if not with_login():
        name = st.session_state.get("user") or st.query_params.get("user", "")  # the field keeps it in the address, but is drawn later
        return Person(name.strip()[:128] or "anonymous", frozenset(ROLES), settings().serving_key)
    claims: dict[str, Any] = dict(st.user.to_dict()) if st.user.is_logged_in else {}
    if float(claims.get("exp") or "inf" if claims else 0) < time.time():
        return None
    token = str((claims.get("tokens") or {}).get("access") or settings().serving_key)
    return Person(str(claims.get("email") or claims.get("sub")), roles_of(claims, settings().roles_claim), token)


def is_inside(who: Person | None) -> bool:
    """Whether they may come in as they are; asked once a session."""
    if who is None or not who.may("user"):
        return False
    if st.session_state.get("inside") != who.name:
        with suppress(ServingError):  # `enter` asks again, and says it
            if client.call("GET", "/v1/policy", who.token, user=who.name)["accepted"]:
                st.session_state.inside = who.name
    return bool(st.session_state.get("inside") == who.name)


def enter(who: Person | None) -> Person:
    """Let somebody in; who has to log in, has no role, or has not accepted the policy sees that, and the page ends."""
    if who is None:
        again = st.user.is_logged_in
        text = "Your login has expired. Log in again to go on; what you wrote is kept." if again else "Please log in to go on."
        _closed(text, "Log in again" if again else "Log in", st.login)
    elif not who.may("user"):
        _closed(f"{who.name} has no role here. Ask your operator to give you one of: {', '.join(ROLES)}.", "Log out", st.logout)
    elif not is_inside(who):
        _policy(who)
        st.session_state.inside = who.name
        st.rerun()
    assert who is not None
    return who


def _closed(text: str, label: str, act: Any) -> None:
    st.title("Flywheel")
    st.write(text)
    st.button(label, type="primary", on_click=act)
    st.stop()


def needs(who: Person, role: Role) -> None:
    """End the page, in words, for who has not the role."""
    if not who.may(role):
        st.title("Not for this account")
        st.info(f"This page is for people with the role “{role}”. Ask your operator for it, or go on with another page.", icon=":material/lock:")
        st.stop()


def _policy(who: Person) -> None:
    """The usage policy and data notice: nobody goes on before they accepted its present version, and that is recorded."""
    try:
        found = client.call("GET", "/v1/policy", who.token, user=who.name)
        if found["accepted"]:
            return
        st.markdown(found["text"])
        agreed = st.checkbox("I have read this and agree.")
        if not st.button("Go on", type="primary", disabled=not agreed):
            st.stop()
        client.call("POST", "/v1/policy", who.token, {"user": who.name, "version": found["version"]})
    except ServingError as error:
        st.title("Flywheel")
        st.error(str(error), icon=":material/cloud_off:")
        st.button("Try again", type="primary")
        st.stop()
