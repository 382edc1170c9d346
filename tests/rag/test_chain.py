"""LangChain's retriever and runnable on a real index."""

from __future__ import annotations

from langchain_core.language_models.fake_chat_models import FakeListChatModel

from rag.chain import PassageRetriever, answering
from rag.grounding import UNKNOWN


def test_retriever_and_runnable(indexed):
    retriever = PassageRetriever(k=2, filter={"topic": "sky"})
    found = retriever.invoke("How long does the Moon take around the Earth?")
    assert [d.metadata["source"] for d in found] == ["moon.md"] and found[0].metadata["end"] > found[0].metadata["start"]
    chain = answering(FakeListChatModel(responses=["The Moon circles the Earth in about twenty-seven days [1] [5]."]), retriever)
    given = chain.invoke("How long does the Moon take around the Earth?")
    assert given["answer"].endswith("days [1].") and given["sources"][0]["cited"] and given["citations"][0]["source"] == 1


def test_the_model_is_not_asked_about_what_nothing_supports(indexed):
    chain = answering(FakeListChatModel(responses=["I was asked."]))
    assert chain.invoke("Who won the chess championship of Reykjavik in 1972?")["answer"] == UNKNOWN
