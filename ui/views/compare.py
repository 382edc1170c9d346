"""Side by side: one question, two answers, blind and shuffled. Which is better goes to the ledger; only then the versions are named."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import streamlit as st

from flywheel.settings import settings
from ui import asking, client, memory, rating
from ui.asking import Answer
from ui.client import ServingError
from ui.doors import Person
from ui.showing import body_of, version_of

KIND = "pair"
Better = Literal["left", "right", "tie", "both bad"]
LABELS: dict[Better, tuple[str, str]] = {
    "left": ("Left is better", ":material/arrow_back:"), "right": ("Right is better", ":material/arrow_forward:"),
    "tie": ("A tie", ":material/equal:"), "both bad": ("Both are bad", ":material/thumb_down:"),
}  # fmt: skip


@dataclass
class Pair:
    """A question and two answers, as they stand on the page."""

    question: str = ""
    sides: list[Answer] = field(default_factory=list)
    better: str = ""

    def ask(self, question: str, models: dict[str, str], who: Person) -> None:
        """Put the question to both, in an order that chance chooses."""
        two = pair_of(models)
        random.shuffle(two)
        body: dict[str, Any] = {"messages": [{"role": "user", "content": question}], "user": who.name, "max_tokens": 256}
        if two[0] == two[1]:
            body["temperature"] = 0.8  # else both would say the same
        self.question, self.better = question, ""
        self.sides = [asking.ask({**body, "model": model, "seed": random.randrange(2**31)}, who.token) for model in two]


def pair_of(models: dict[str, str]) -> list[str]:
    """The version in use and the newest other one that is loaded, a challenger where there is one; without, the one in use twice."""
    used = settings().model_name
    others = [name for name, version in models.items() if ":" in name and version != models.get(used)]
    champion = f"{used}:{models[used]}" if used in models else used
    rival = max(others, key=lambda name: models[name].zfill(9) if models[name].isdigit() else "", default=None)
    return [champion, rival] if rival else [used, used]


def page(who: Person) -> None:
    """Ask, read both, choose."""
    pair = memory.current(who.name, KIND, Pair)
    st.title("Which answer is better?")
    try:
        models = client.models(who.token)
    except ServingError as error:
        st.error(str(error), icon=":material/cloud_off:")
        models = {}
    if len(set(pair_of(models))) == 2:
        st.caption("Two versions answer, in an order that chance chooses. They are named after your choice.")
    else:
        st.caption("Only one version is loaded at the moment: both answers come from it, drawn differently.")
    asked = st.chat_input("Ask both", key="ask-both")
    if asked:
        pair.ask(asked, models, who)
    if pair.question:
        _show(pair, models, who)


def _show(pair: Pair, models: dict[str, str], who: Person) -> None:
    with st.chat_message("user"):
        st.markdown(body_of(pair.question))
    spots = []
    for column, name in zip(st.columns(2, border=True), ("Left", "Right"), strict=True):
        with column:
            st.subheader(name)
            spots.append(st.empty())

    def show() -> None:
        for spot, answer in zip(spots, pair.sides, strict=True):
            spot.markdown(answer.text or ("_Thinking …_" if not answer.done.is_set() else "_(an empty answer)_"))

    asking.follow(pair.sides, show)
    problem = next((answer.problem for answer in pair.sides if answer.problem), "")
    if problem:
        st.error(problem, icon=":material/error:")
        st.button("Ask both again", on_click=pair.ask, args=(pair.question, models, who), icon=":material/refresh:")
    elif pair.better:
        named = " · ".join(f"{side}: {version_of(answer.version)}" for side, answer in zip(("left", "right"), pair.sides, strict=True))
        st.success(f"Stored: {LABELS[pair.better][0].lower()}. {named}", icon=":material/check:")  # type: ignore[index]
        st.button("Another question", on_click=memory.switch, args=(KIND,), type="primary")
    else:
        with st.container(horizontal=True, key="votes"):
            for number, better in enumerate(get_args(Better), 1):
                label, icon = LABELS[better]
                if st.button(label, icon=icon, key=f"vote-{better}", shortcut=str(number), width="stretch") and rating.prefer(
                    pair.sides[0], pair.sides[1], who, better
                ):
                    pair.better = better
                    st.rerun()
        if pair.sides[0].unsent:
            st.error(pair.sides[0].unsent, icon=":material/error:")
