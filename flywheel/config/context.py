"""What the model is shown beside the question: the config of `index` and `features`."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator

from flywheel.config.section import Section
from flywheel.config.sources import Source


class Corpus(Section):
    """What documents of any kind have."""

    tenants: tuple[str, ...] = Field((), description="Who may see them; nobody named: everyone")
    metadata: dict[str, str] = Field({}, description="What a search can filter by, e.g. {topic: billing}")


class FileDocuments(Corpus):
    """Markdown, HTML, PDF, Python and plain text files."""

    kind: Literal["files"]
    path: str = Field(min_length=1, description="A path or a glob, here or s3://, gs://, abfs://")


class SourceDocuments(Corpus):
    """The records of a source as `ingest` has them: the question is the title, the answer the text."""

    kind: Literal["source"]
    source: Source


Documents = Annotated[FileDocuments | SourceDocuments, Field(discriminator="kind")]


class Index(Section):
    """Documents to search, as passages in PostgreSQL; docs/context.md shows it. Without documents nothing is done."""

    documents: tuple[Documents, ...] = ()
    alias: str = Field("default", pattern=r"^[a-z][a-z0-9_-]*$", description="The name that searches use")
    embedder: str = Field(
        "all-minilm-l6-v2", description="all-minilm-l6-v2 (from PyPI), a sentence-transformers folder, s3://, a hub id; or, with a url, its name there"
    )
    embedder_url: str = Field("", description="An OpenAI-compatible server, e.g. http://127.0.0.1:8000/v1; its key: FLYWHEEL_EMBEDDER_KEY")
    language: str = Field("english", pattern=r"^[a-z_]+$", description="PostgreSQL's text search configuration: stop words and stems")
    characters: int = Field(1000, ge=100, le=8000, description="Longest passage")
    overlap: int = Field(0, ge=0, description="Characters that neighbours within one section share")
    min_similarity: float = Field(0.25, ge=-1, le=1, description="Cosine to the question below which no passage supports an answer")
    reranker: str = Field("", description="A cross-encoder's folder or hub id that orders what was found; empty: none")
    keep: int = Field(1, ge=0, description="How many indexes before the present one (of another embedder or language) are kept")


class Features(Section):
    """The feature store; it is off until FLYWHEEL_FEATURES_URL is set."""

    profiles: str = Field("", description="JSONL of user, tier, locale, since: what `user_profile` knows. Empty: nothing")
    topics: dict[str, str] = Field({}, description="A topic's name and its pattern (a regular expression); the first that a question has is its topic")

    @field_validator("topics")
    @classmethod
    def _patterns(cls, topics: dict[str, str]) -> dict[str, str]:
        for name, pattern in topics.items():
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"the pattern of {name} is no regular expression ({error})") from None
        return topics
