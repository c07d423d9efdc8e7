"""Pages from templates (Jinja2): every value is escaped unless it is Markup already, so that no name can break out."""

from __future__ import annotations

import base64
import hashlib
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader

from ...ssl.common.files import write_text
from .assets import coastlines, globe_script

TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parents[1]), autoescape=True, trim_blocks=True, lstrip_blocks=True
)
CODED = '<meta charset="utf-8">\n'
LOOK_PLACE = "<!-- open in look -->"


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
    """Return the whole document: one file that asks nothing of the network, and runs no script but its own.

    Maps that its parts hold (`Maps`) are shown on globes.

    Args:
        sections: Its parts.
        template: results/page.html, or one that extends it.
        values: What the template shows beside them: title, synthetic, found, notes, foot.
    """
    kept = [section for section in sections if section.content]
    made = TEMPLATES.get_template(template).render(sections=kept, **values)
    script = ""
    if 'class="globe-data"' in made:
        script = globe_script()
        coast = f'<script type="application/json" id="coastlines">{coastlines()}</script>\n'
        made = made.replace("</body>", f'{coast}<script type="module">{script}</script>\n</body>')
    return made.replace(CODED, CODED + policy(script), 1)


def policy(script: str = "") -> str:
    """Return the element of a page's head that lets no script run but this one, and nothing be asked of the network.

    Args:
        script: Between its tags, to the letter; "" for none.
    """
    mark = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    rules = (
        "default-src 'none'", f"script-src 'sha256-{mark}'" if script else "script-src 'none'",
        "style-src 'unsafe-inline'", "img-src data:", "base-uri 'none'", "form-action 'none'",
    )  # fmt: skip
    return f'<meta http-equiv="Content-Security-Policy" content="{"; ".join(rules)}">\n'


def link_look(report: Path, address: str) -> bool:
    """Put the link "Open in look" into a report that has a place for it; return whether it had.

    Args:
        report: A page that was written with its command of `look`.
        address: Of the page of `look`, from the report.
    """
    text = report.read_text(encoding="utf-8")
    if text.count(LOOK_PLACE) != 1 or not re.fullmatch(r"[\w./-]+", address):
        return False
    link = f'<a href="{address}">Open in look</a>: fields, states and maps on a page that needs no server.'
    write_text(report, text.replace(LOOK_PLACE, f'<p class="open-look">{link}</p>'))
    return True


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
