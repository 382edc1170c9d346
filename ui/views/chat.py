"""Chat: ask, see the answer come, stop it, ask again, go back to an earlier conversation, and say what is right or wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import streamlit as st

from flywheel.settings import settings
from ui import asking, memory, rating
from ui.asking import Answer
from ui.doors import Person
from ui.showing import body_of, sources, version_of

EXAMPLES = ("What does `shutil.copytree` do?", "What does `textwrap.dedent` do?", "What is `collections.OrderedDict`?")
KIND, LONGEST = "chat", 256  # tokens of an answer


@dataclass
class Exchange:
    """A question and its answer."""

    question: str
    answer: Answer


@dataclass
class Conversation:
    """Exchanges, oldest first."""

    exchanges: list[Exchange] = field(default_factory=list)

    @property
    def title(self) -> str:
        """Its first question, short enough for a button."""
        words = " ".join(self.exchanges[0].question.split()) if self.exchanges else ""
        return words if len(words) <= 32 else words[:31] + "…"

    def messages(self, question: str) -> list[dict[str, str]]:
        """What the model is to see: the exchanges that worked, and the question."""
        found = []
        for exchange in self.exchanges:
            if exchange.answer.text and not exchange.answer.problem:
                found += [{"role": "user", "content": exchange.question}, {"role": "assistant", "content": exchange.answer.text}]
        return [*found, {"role": "user", "content": question}]

    def ask(self, question: str, who: Person, **changes: Any) -> None:
        """Put a question; one that is still being answered is stopped."""
        if self.exchanges:
            self.exchanges[-1].answer.stop()
        body = {"model": settings().model_name, "messages": self.messages(question), "user": who.name, "max_tokens": LONGEST}
        if st.session_state.get("documents"):
            body["retrieval"] = {}
        self.exchanges.append(Exchange(question, asking.ask({**body, **changes}, who.token)))

    def again(self, who: Person, question: str = "") -> None:
        """Answer the last question anew, drawn differently, or answer it as it is worded now."""
        last = self.exchanges.pop()
        last.answer.stop()
        if last.answer.finish and not question:
            rating.signal(last.answer, who, "regenerated")
        self.ask(question or last.question, who, **({"temperature": 0.8} if last.answer.text and not question else {}))


def page(who: Person) -> None:
    """The conversation that the address names."""
    talk = memory.current(who.name, KIND, Conversation)
    _earlier(who)
    asked = st.chat_input("Ask a question", key="ask")
    if asked:
        talk.ask(asked, who)
    if not talk.exchanges:
        st.title("Ask, rate, correct")
        st.write("Every correction you allow to be used is learned from in the next turn.")
        for question in EXAMPLES:
            st.button(question, key=f"example-{question}", on_click=talk.ask, args=(question, who), icon=":material/chat_bubble:")
    for exchange in talk.exchanges:
        with st.chat_message("user"):
            st.markdown(body_of(exchange.question))
        with st.chat_message("assistant"):
            _answer(talk, exchange, who, last=exchange is talk.exchanges[-1])


def _answer(talk: Conversation, exchange: Exchange, who: Person, last: bool) -> None:
    answer = exchange.answer
    head, text, foot = st.empty(), st.empty(), st.container()
    if not answer.done.is_set():
        with head:  # above the answer, so that it does not move while that grows
            st.button("Stop", on_click=answer.stop, key=f"stop-{answer.key}", shortcut="Esc", icon=":material/stop_circle:")
        asking.follow([answer], lambda: text.markdown(answer.text + " ▌" if answer.text else "_Thinking …_"))
        st.rerun()
    text.markdown(answer.text or ("" if answer.problem or answer.stopped else "_(an empty answer)_"))
    with foot:
        if answer.problem:
            st.error(answer.problem, icon=":material/error:")
        sources(answer)
        ending = "stopped" if answer.stopped else "cut at the longest length" if answer.finish == "length" else ""
        st.caption(" · ".join(filter(None, (version_of(answer.version), ending))))
        if answer.finish:  # the service stores what came to its end
            rating.form(answer, who)
        if last:
            _once_more(talk, exchange, who)


def _once_more(talk: Conversation, exchange: Exchange, who: Person) -> None:
    with st.container(horizontal=True):
        label = "Try again" if exchange.answer.problem else "Regenerate"
        st.button(label, on_click=talk.again, args=(who,), key=f"again-{exchange.answer.key}", icon=":material/refresh:", type="tertiary")
        with st.popover("Reword the question", icon=":material/edit_note:", type="tertiary"):
            worded = st.text_area("Your question", value=exchange.question, key=f"reword-{exchange.answer.key}", height=120)
            st.button("Ask this instead", on_click=talk.again, args=(who, worded), key=f"instead-{exchange.answer.key}", disabled=not worded.strip())


def _earlier(who: Person) -> None:
    with st.sidebar:
        st.toggle(
            "Answer from the documents", key="documents", persist_state="session", help="Searches the indexed documents, and shows what an answer rests on."
        )
        st.button("New conversation", on_click=memory.switch, args=(KIND,), width="stretch", icon=":material/add:")
        for name, talk in memory.shelf().of(who.name, KIND).items():
            if talk.exchanges:
                now = name == st.query_params.get(KIND)
                st.button(talk.title, key=f"talk-{name}", on_click=memory.switch, args=(KIND, name), type="tertiary", width="stretch", disabled=now)
