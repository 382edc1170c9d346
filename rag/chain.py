"""LangChain's view: a retriever, and a runnable that answers from what it finds, with sources and citations.

chain = answering(model, PassageRetriever(k=4))         # model: any LangChain chat model
chain.invoke("What does shutil.copytree do?")           # {"answer": …, "sources": […], "citations": […]}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.output_parsers import StrOutputParser
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable, RunnableLambda

from flywheel.records import Message
from rag import citing, grounding
from rag.search import Hit, Mode, current, search


class PassageRetriever(BaseRetriever):
    """Hybrid search as a LangChain retriever; offsets, score and similarity are in each document's metadata."""

    k: int = 4
    alias: str = "default"
    filter: Mapping[str, Any] = {}
    tenants: tuple[str, ...] = ()
    mode: Mode = "hybrid"

    def _get_relevant_documents(self, query: str, *, run_manager: CallbackManagerForRetrieverRun) -> list[Document]:
        return [_document(hit) for hit in self.hits(query)]

    def hits(self, query: str) -> list[Hit]:
        """The same, as the search gives them."""
        return search(query, self.k, filter=self.filter, tenants=self.tenants, alias=self.alias, mode=self.mode)


def _document(hit: Hit) -> Document:
    known = {"source": hit.document, "title": hit.title, "start": hit.start, "end": hit.end, "score": hit.score, "similarity": hit.similarity}
    return Document(id=hit.id, page_content=hit.text, metadata={**hit.metadata, **known})


def answering(model: Runnable[Any, Any], retriever: PassageRetriever | None = None) -> Runnable[str, dict[str, Any]]:
    """Question in; answer, sources and citations out. Where no passage supports an answer, the model is not asked."""
    retriever = retriever or PassageRetriever()
    generate = model | StrOutputParser()

    def answer(question: str) -> dict[str, Any]:
        hits = retriever.hits(question)
        if not grounding.supported(hits, current(retriever.alias).min_similarity):
            return {"answer": grounding.UNKNOWN, "sources": [], "citations": []}
        turns, shown = grounding.grounded([Message(role="user", content=question)], hits), grounding.kept(hits)
        return citing.cited(generate.invoke([(turn.role, turn.content) for turn in turns]), shown, hits[len(shown) :])

    return RunnableLambda(answer)
