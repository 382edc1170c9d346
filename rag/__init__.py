"""Retrieval: documents are split into passages, indexed in the one PostgreSQL, found by meaning and by words, and cited.

    python -m tasks.index --config config/flywheel.yaml --run-dir .flywheel/store/runs/hand/1      builds and updates the index
    from rag.chain import PassageRetriever, answering                                             LangChain's retriever and runnable

`docs/context.md` shows all of it.
"""
