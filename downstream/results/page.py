"""Pages from templates (Jinja2): every value is escaped unless it is Markup already, so that no name can break out."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]), autoescape=True, trim_blocks=True, lstrip_blocks=True
)


@dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
        anchor: Its address on the page, and the name of the macro that shows it.
        title: Its heading.
        content: What the macro is given; where it is empty, the section is left out.
        template: File of the macro, below downstream/.
    """

    anchor: str
    title: str
    content: Any
    template: str = "results/sections.html"


def page(sections: Sequence[Section], template: str = "results/page.html", **values: Any) -> str:
    """Return the whole document: one file that asks nothing of the network.

    Args:
        sections: Its parts.
        template: results/page.html, or one that extends it.
        values: What the template shows beside them: title, synthetic, found, notes, foot.
    """
    kept = [section for section in sections if section.content]
    return TEMPLATES.get_template(template).render(sections=kept, **values)


def look_command(store: str, run: str = "", checkpoint: str = "") -> str:
    """Return the command that opens a store, with an encoder and the maps of a run, in `earthssl look`; "" for none.

    Args:
        store: Of the data.
        run: Folder of results.
        checkpoint: Of the encoder.
    """
    options = [("--checkpoint", checkpoint), ("--run", run)]
    words = [word for name, value in options if value for word in (name, value)]
    return shlex.join(["earthssl", "look", store, *words]) if store else ""
