"""A message: what is said, from a template of its kind. The first line of the rendered template is the title."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from flywheel.errors import ContractError
from flywheel.notices.config import Kind, Notices, path

OURS = Path(__file__).parent / "templates"
LONGEST = 3000  # characters; Slack takes so many in a block


class Message(BaseModel):
    """What is sent, in no channel's own form."""

    kind: Kind
    title: str
    text: str
    links: dict[str, str] = {}
    ask: dict[str, str] = {}  # dag, run and task whose approval it asks for: each receiver gets a link of their own


def write(kind: Kind, facts: Mapping[str, Any], links: Mapping[str, str], ask: Mapping[str, str], conf: Notices) -> Message:
    """Render it. Raises ContractError for a template that cannot be."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, TemplateError

    folders = [*([path().parent / conf.templates] if conf.templates else []), OURS]
    environment = Environment(loader=FileSystemLoader(folders), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)  # noqa: S701 - plain text
    try:
        lines = environment.get_template(f"{kind}.txt").render(facts).strip().splitlines()
    except TemplateError as error:
        mend = "Start from flywheel/notices/templates."
        raise ContractError(f"{type(error).__name__}: {error}", where=f"template {kind}.txt in {conf.templates or OURS}", mend=mend) from error
    text = "\n".join(lines[1:]).strip()
    return Message(
        kind=kind, title=lines[0] if lines else kind, text=text if len(text) <= LONGEST else text[: LONGEST - 1] + "…", links=dict(links), ask=dict(ask)
    )
