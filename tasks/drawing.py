"""What the pages for people share: one style (page.css), in light and dark, and plots as inline SVG that follow it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BLUE, GREY, RED, GREEN = "#3f74bd", "#9aa3b2", "#c2524a", "#3c8a57"
INK = "black"  # page.css turns it into the page's own text colour


def render(template: str, **values: Any) -> str:
    """A page from its template in this folder."""
    from jinja2 import Environment, FileSystemLoader

    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return environment.get_template(template).render(**values)


def axes(width: float, height: float) -> tuple[Figure, Any]:
    """A figure of this size in inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height))
    axis = figure.add_subplot()
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def svg(figure: Figure) -> str:
    """The figure as SVG, its text as text."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "flywheel", "svg.fonttype": "none", "font.family": "sans-serif"}):
        buffer = io.StringIO()
        figure.tight_layout()
        figure.savefig(buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")), transparent=True)
    text = buffer.getvalue()
    return text[text.index("<svg") :]
