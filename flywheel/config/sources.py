"""Where records come from: the config of `ingest`. One class a kind of source; docs/sources.md shows each in YAML."""

from __future__ import annotations

from string import Template
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, StringConstraints, field_validator, model_validator

from flywheel.config.section import Section, Share

Said = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Column = Literal["instruction", "input", "output", "history", "messages", "prompt", "chosen", "rejected", "completion", "label", "liked", "group", "slice"]
SECRET = ("authorization", "cookie", "key", "token", "secret")


class Origin(Section):
    """What every source has. A run refuses a source without licence and consent."""

    name: str = Field("", description="How its records are called; default: its kind")
    licence: Said = Field(description="SPDX name or a sentence")
    consent: Said = Field(description="On what ground the text may be trained on")
    columns: dict[Column, str] = Field({}, description="Our field: theirs, e.g. {instruction: question, output: answer.text}; a dot goes inward")
    time: str = Field("", description="Their field that says when a record came to be (ISO or Unix seconds); what came after the interval is left for later")

    @property
    def address(self) -> str:
        """Where it lies, for people."""
        return ""

    @property
    def label(self) -> str:
        """How it is called in what people read: its name, its address, or its kind."""
        return self.name or self.address or str(getattr(self, "kind", ""))


class Prose(Section):
    """How running text becomes records: the text is the output, and this the question."""

    question: str = Field("{title}", description="The instruction; {title}, {address} and {number} (of the paragraph) are filled in")
    each: Literal["page", "paragraph"] = Field("page", description="One record a page or file, or one a paragraph")

    @field_validator("question")
    @classmethod
    def _fills(cls, value: str) -> str:
        try:
            value.format(title="", address="", number=1)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise ValueError("only {title}, {address} and {number} can be filled in") from error
        return value


class Polite(Section):
    """How a server is asked."""

    headers: dict[str, str] = Field({}, description="${NAME} takes an environment variable, e.g. Authorization: Bearer ${CRM_TOKEN}")
    attempts: int = Field(5, ge=1, description="How often a request that waiting may cure is made")
    backoff_seconds: float = Field(1, ge=0, description="Wait before the second attempt; it doubles")
    per_second: float = Field(5, gt=0, description="Most requests a second")
    timeout_seconds: float = Field(30, gt=0)

    @field_validator("headers", "parameters", check_fields=False)
    @classmethod
    def _no_secret_in_yaml(cls, given: dict[str, str]) -> dict[str, str]:
        for name, value in given.items():
            if any(word in name.lower() for word in SECRET) and not Template(value).get_identifiers():
                raise ValueError(f"{name} is a secret: write ${{VARIABLE}} and set that environment variable")
        return given


class Docs(Origin):
    """The standard library's own docstrings, as questions and answers."""

    kind: Literal["docs"]


class Files(Origin, Prose):
    """JSONL, CSV, Parquet or plain text, `.gz` too; a path, a glob, s3://, gs://, abfs:// or http(s)://."""

    kind: Literal["files"]
    path: str = Field(min_length=1, description="May hold {date} (2026-01-31 or 20260131): a file is taken once its day is over")
    format: Literal["auto", "jsonl", "csv", "parquet", "txt"] = Field("auto", description="auto: by the file's name")

    @property
    def address(self) -> str:
        """The last part of the path."""
        return self.path.split("?")[0].rstrip("/").rsplit("/", 1)[-1]


class Pages(Section):
    """Pages are numbered; the first without a record is the end."""

    by: Literal["page"]
    parameter: str = "page"
    first: int = 1


class Cursor(Section):
    """Each reply holds the key of the next one; none is the end."""

    by: Literal["cursor"]
    parameter: str = "cursor"
    at: str = Field(min_length=1, description="Where the key is in the reply, e.g. meta.next")


class Link(Section):
    """Each reply holds the address of the next one; none is the end."""

    by: Literal["link"]
    at: str = Field("", description="Where the address is in the reply, e.g. links.next; empty: the Link header")


class Http(Origin, Polite):
    """A JSON API."""

    kind: Literal["http"]
    url: str = Field(pattern=r"^https?://", description="{interval_end} is filled in, here and in `parameters`")
    parameters: dict[str, str] = Field({}, description="The query, e.g. {before: '{interval_end}'}; ${NAME} as in `headers`")
    records: str = Field("", description="Where the records are in the reply, e.g. data.items; empty: the reply is the list")
    paging: Annotated[Pages | Cursor | Link, Field(discriminator="by")] | None = None

    @model_validator(mode="after")
    def _no_password_in_yaml(self) -> Http:
        if urlsplit(self.url).password:
            raise ValueError("the url holds a password: use a header with ${VARIABLE}")
        return self

    @property
    def address(self) -> str:
        """The URL without its query."""
        return self.url.split("?")[0]


class Web(Origin, Polite, Prose):
    """Web pages: their main text, where robots.txt lets us."""

    kind: Literal["web"]
    urls: tuple[Annotated[str, StringConstraints(pattern=r"^https?://")], ...] = Field(min_length=1)
    agent: str = Field("flywheel", pattern=r"^[A-Za-z][\w./-]*$", description="The name that robots.txt and the server see")
    per_second: float = Field(1, gt=0, description="Most requests a second; robots.txt may ask for fewer")

    @property
    def address(self) -> str:
        """The hosts."""
        return ", ".join(sorted({urlsplit(url).netloc for url in self.urls}))


class Sql(Origin):
    """The rows of a query, streamed."""

    kind: Literal["sql"]
    query: str = Field(min_length=1, description=":interval_end is bound, e.g. select … where created <= :interval_end")
    url_variable: str = Field("FLYWHEEL_DATABASE_URL", description="Environment variable that holds the SQLAlchemy URL")


class Hub(Origin):
    """A data set of the Hugging Face hub, or a folder that holds a copy of one."""

    kind: Literal["hub"]
    dataset: str = Field(min_length=1, description="A hub id, or a folder: a clone of its repository, or what save_to_disk wrote")
    config: str = Field("", description="The data set's own configuration, where it has several")
    split: str = "train"
    revision: str = Field("main", description="Of a hub id: a branch, tag or commit")

    @property
    def address(self) -> str:
        """The data set's id, or its folder's name."""
        return self.dataset.rstrip("/") if self.dataset.count("/") == 1 else self.dataset.rstrip("/").rsplit("/", 1)[-1]


Plain = Annotated[Docs | Files | Http | Web | Sql | Hub, Field(discriminator="kind")]


class Grounded(Origin):
    """Another source's records with passages of an index, as serving shows them: the right one among distractors (RAFT)."""

    kind: Literal["grounded"]
    source: Plain
    index: str = Field("default", description="The index's alias")
    distractors: int = Field(2, ge=0, le=10, description="Wrong passages, the likeliest ones, shown beside the right one")
    without_answer: Share = Field(0.1, description="Share that gets distractors only, and learns to say that it doesn't know")
    characters: int = Field(1200, ge=200, description="Of all passages of one record together")

    @property
    def address(self) -> str:
        """The other source's."""
        return self.source.label


Source = Annotated[Docs | Files | Http | Web | Sql | Hub | Grounded, Field(discriminator="kind")]


class Ingest(Section):
    """Collect records and split them by group, so that a group is only ever on one side."""

    sources: tuple[Source, ...] = Field(min_length=1)
    only: tuple[str, ...] = Field((), description="Names of the sources that are read; empty: all")
    heldout: Share = Field(0.1, description="Share of groups kept for evaluation, never trained on")
    reserve: Share = Field(0.0, description="Share of groups kept aside from both (the demo's users ask from it)")
    limit: int | None = Field(None, ge=1, description="At most this many records of each split, by hash order")
    feedback: bool = Field(True, description="Add the curated feedback that arrived before the interval's end")
    interval_end: str = Field("", description="ISO time; what came later is left for a later run. Set by the DAG")

    @model_validator(mode="after")
    def _chosen(self) -> Ingest:
        """Leaves the sources that `only` names: a choice, not a setting of its own, so that the same sources are the same work."""
        labels = [source.label for source in self.sources]
        if unknown := [name for name in self.only if name not in labels]:
            raise ValueError(f"only names {', '.join(unknown)}, and the sources are {', '.join(labels)}")
        if self.only:
            object.__setattr__(self, "sources", tuple(source for source in self.sources if source.label in self.only))
            object.__setattr__(self, "only", ())
        return self
