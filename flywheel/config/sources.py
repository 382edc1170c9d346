"""Where records come from: the config of `ingest`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from flywheel.config.section import Section, Share


class Source(Section):
    """Where records come from. A run refuses a source without licence and consent."""

    kind: Literal["docs", "files"]
    name: str = ""
    path: str = Field("", description="files: a path, glob or URL of .jsonl, .csv or .parquet")
    licence: str = Field(min_length=1, description="SPDX name or a sentence")
    consent: str = Field(min_length=1, description="On what ground the text may be trained on")

    @model_validator(mode="after")
    def _path_for_files(self) -> Source:
        if self.kind == "files" and not self.path:
            raise ValueError("a source of kind files needs a path")
        return self


class Ingest(Section):
    """Collect records and split them by group, so that a group is only ever on one side."""

    sources: tuple[Source, ...] = Field(min_length=1)
    heldout: Share = Field(0.1, description="Share of groups kept for evaluation, never trained on")
    reserve: Share = Field(0.0, description="Share of groups kept aside from both (the demo's users ask from it)")
    limit: int | None = Field(None, ge=1, description="At most this many records of each split, by hash order")
    feedback: bool = Field(True, description="Add the curated feedback that arrived before the interval's end")
    interval_end: str = Field("", description="ISO time; what came later is left for a later run. Set by the DAG")
