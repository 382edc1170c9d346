"""A small library of documents, and an index of it on a real PostgreSQL with the real embedder."""

from __future__ import annotations

import pytest

from rag.documents import Document
from rag.index import Wanted, build
from rag.splitting import split

LIBRARY = (
    Document(
        "guide.md", "# Copying\n\nUse `shutil.copytree` to copy a whole directory tree.\n\n## Limits\n\nIt stops at the first broken link.", "markdown", "Guide"
    ),
    Document("bread.md", "# Bread\n\nMix flour, water and salt, and let the dough rest overnight.", "markdown", "Baking", metadata={"topic": "food"}),
    Document("moon.md", "# Moon\n\nThe Moon circles the Earth in about twenty-seven days.", "markdown", "Sky", metadata={"topic": "sky"}),
    Document(
        "secret.md", "# Recipe\n\nThe secret flour of the house is ground from chestnuts.", "markdown", "Acme", tenants=("acme",), metadata={"topic": "food"}
    ),
)


def passages(documents=LIBRARY):
    return [passage for document in documents for passage in split(document)]


@pytest.fixture
def indexed(database):
    return build(passages(), Wanted())
