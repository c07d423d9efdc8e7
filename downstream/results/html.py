"""Html and the pieces of a page: text is escaped unless it is Html already, so that no name can break out."""

from __future__ import annotations

import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

VOID = ("br", "img")  # elements without an end


class Html(str):
    """Text that is HTML already."""


def escaped(content: Any) -> Html:
    """Return any content as HTML: `Html` as it is, everything else escaped."""
    return content if isinstance(content, Html) else Html(html.escape(str(content), quote=True))


def joined(parts: Iterable[Any], between: str = "") -> Html:
    """Return the contents one after the other."""
    return Html(between.join(escaped(part) for part in parts))


def element(tag: str, *content: Any, **attributes: Any) -> Html:
    """Return an element; a trailing underscore of an attribute is dropped and None leaves it out."""
    named = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items() if value is not None}
    words = "".join(f' {key}="{html.escape(str(value), quote=True)}"' for key, value in named.items())
    return Html(f"<{tag}{words}>" if tag in VOID else f"<{tag}{words}>{joined(content)}</{tag}>")


@dataclass(frozen=True)
class Section:
    """A part of the page with an anchor; empty content leaves it out."""

    anchor: str
    title: str
    content: Html

    def to_html(self) -> Html:
        """Return the section."""
        return element("section", element("h2", self.title), self.content, id=self.anchor)


def table(
    head: Sequence[Any],
    body: Sequence[Sequence[Any]],
    caption: Any,
    *,
    text_columns: int = 1,
    over: Sequence[tuple[Any, int]] = (),
) -> Html:
    """Return a table that scrolls sideways where it must; all but the first columns are numbers, to the right.

    A body row of one cell is a heading over the rows that follow; `over` holds headings over several columns,
    each with their number.
    """
    kinds = ["text" if k < text_columns else "number" for k in range(len(head))]
    top = joined(element("th", cell, class_=kind, scope="col") for cell, kind in zip(head, kinds, strict=True))
    rows = []
    for cells in body:
        if len(cells) == 1:
            rows.append(element("tr", element("th", cells[0], colspan=len(head), scope="rowgroup"), class_="group"))
            continue
        first = element("th", cells[0], class_="text", scope="row")
        rest = [element("td", cell, class_=kind) for cell, kind in zip(cells[1:], kinds[1:], strict=True)]
        rows.append(element("tr", first, *rest))
    above = [element("th", cell, colspan=span, class_="over" if cell else "blank") for cell, span in over]
    heads = [element("tr", *above)] * bool(above) + [element("tr", top)]
    made = element("table", element("thead", *heads), element("tbody", *rows))
    return element("figure", element("figcaption", caption), element("div", made, class_="scroll"), class_="table")


def figure(svg: Html, caption: Any, width: int = 0) -> Html:
    """Return a figure with its caption; `width` in CSS pixels is what it needs to be read."""
    style = f"min-width:{width}px" if width else None
    return element(
        "figure", element("div", element("div", svg, style=style), class_="scroll"), element("figcaption", caption)
    )


def facts(pairs: Iterable[tuple[Any, Any]]) -> Html:
    """Return names and values as a definition list; a pair without a value is left out."""
    kept = [(name, value) for name, value in pairs if value not in ("", None)]
    return element("dl", *[joined([element("dt", name), element("dd", value)]) for name, value in kept])


def details(summary: Any, *content: Any) -> Html:
    """Return content that opens on a click."""
    return element("details", element("summary", summary), *content)


def bullets(items: Iterable[Any], class_: str | None = None) -> Html:
    """Return a list."""
    return element("ul", *[element("li", item) for item in items], class_=class_)


def page(title: str, header: Html, sections: Sequence[Section], footer: Html) -> Html:
    """Return the whole document: one file that asks nothing of the network."""
    kept = [section for section in sections if section.content]
    menu = element("nav", *[element("a", s.title, href=f"#{s.anchor}") for s in kept], aria_label="Contents")
    head = joined(
        [
            Html('<meta charset="utf-8">'),
            Html('<meta name="viewport" content="width=device-width, initial-scale=1">'),
            Html('<meta name="color-scheme" content="light dark">'),
            element("title", title),
            element("style", Html(CSS)),
        ],
        "\n",
    )
    body = joined([header, menu, element("main", *[s.to_html() for s in kept]), footer], "\n")
    return Html(f'<!doctype html>\n<html lang="en">\n<head>\n{head}\n</head>\n<body>\n{body}\n</body>\n</html>\n')


# The eight series colours follow Okabe & Ito; each is darkened or lightened to stand 3:1 off its background.
CSS = """
:root {
  color-scheme: light dark;
  --paper: #fcfcfa; --raised: #f3f3ef; --ink: #1c1f24; --muted: #5c636d; --line: #d5d7d3; --accent: #0b5c94;
  --land: #c9c9c4; --better: #00694c; --worse: #a83b00; --warn: #7a5200; --warn-back: #fdf3d8;
  --c-blue: #0072b2; --c-amber: #b07400; --c-red: #d04e00; --c-green: #008560; --c-grey: #767b82;
  --c-pink: #b0558a; --c-sky: #2f8fc4;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15181c; --raised: #1e2227; --ink: #e8e9e6; --muted: #a3aab3; --line: #3a4047; --accent: #7cc0f2;
    --land: #4a4f55; --better: #4fd0a5; --worse: #ff9d66; --warn: #f0c75e; --warn-back: #2e2712;
    --c-blue: #5fb2ec; --c-amber: #e8a52a; --c-red: #ff7f3f; --c-green: #35c79d; --c-grey: #9ba1a9;
    --c-pink: #e39ac4; --c-sky: #8fd0f5;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; }
body { margin: 0 auto; max-width: 1240px; padding: 2.5rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .3rem; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 3rem 0 .8rem; padding-top: 1rem; border-top: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; }
p, li { max-width: 78ch; }
a { color: var(--accent); }
code { font: .88em ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; overflow-wrap: anywhere; }
pre { background: var(--raised); padding: .8rem 1rem; border-radius: 6px; overflow-x: auto; font-size: .85rem; }
.sub { color: var(--muted); margin: 0 0 1.4rem; }
.badge { display: inline-block; font-size: .78rem; font-weight: 600; padding: .1rem .55rem; border-radius: 999px;
  border: 1px solid var(--warn); color: var(--warn); background: var(--warn-back); vertical-align: .12em; }
.verdict { border-left: 4px solid var(--accent); background: var(--raised); padding: 1rem 1.2rem;
  border-radius: 0 6px 6px 0; font-size: 1.08rem; }
.verdict p { margin: 0; max-width: none; } .verdict p + p { margin-top: .6rem; font-size: .95rem; }
.verdict p:last-child { color: var(--muted); font-size: .88rem; } .verdict strong { font-weight: 650; }
.warning { border-left: 4px solid var(--warn); background: var(--warn-back); padding: .6rem 1rem; margin: .8rem 0;
  border-radius: 0 6px 6px 0; } .warning ul { margin: .3rem 0 0; padding-left: 1.2rem; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin: 1.4rem 0 0; font-size: .92rem; }
nav a { text-decoration: none; } nav a:hover { text-decoration: underline; }
figure { margin: 1.2rem 0 1.8rem; }
figcaption { color: var(--muted); font-size: .88rem; line-height: 1.45; max-width: 110ch; margin: .5rem 0; }
.scroll { overflow-x: auto; }
svg { display: block; width: 100%; height: auto; } svg text { font-family: inherit !important; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums lining-nums; }
th, td { padding: .32rem .38rem; border-bottom: 1px solid var(--line); vertical-align: top; }
thead th { border-bottom: 2px solid var(--line); vertical-align: bottom; font-weight: 600; }
thead th.blank { border: 0; }
thead th.over { text-align: left; font-weight: 500; color: var(--muted); border-bottom: 1px solid var(--line); }
th.text, td.text { text-align: left; } th.number, td.number { text-align: right; } td.number { white-space: nowrap; }
th[scope=row] { font-weight: 500; min-width: 10rem; overflow-wrap: anywhere; }
tr.group th { text-align: left; color: var(--muted); font-weight: 600; font-size: .8rem; padding-top: .9rem; }
tbody tr:hover td, tbody tr:hover th[scope=row] { background: var(--raised); }
.interval { display: block; color: var(--muted); font-size: .72rem; }
.seeds { color: var(--muted); font-size: .76rem; font-weight: 400; white-space: nowrap; }
.better { color: var(--better); } .worse { color: var(--worse); } .undecided { color: var(--muted); }
.strong th, .hero { font-weight: 700; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1.4rem; margin: .8rem 0; }
dt { color: var(--muted); } dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
details { margin: .8rem 0; } summary { cursor: pointer; color: var(--accent); }
.timeline { position: relative; height: 2.1rem; background: var(--raised); border-radius: 6px; margin: .8rem 0 .4rem;
  overflow: hidden; }
.timeline span { position: absolute; top: 0; bottom: 0; display: flex; align-items: center; justify-content: center;
  font-size: .82rem; font-weight: 600; color: var(--paper); overflow: hidden; white-space: nowrap; }
.train { background: var(--c-blue); } .val { background: var(--c-amber); } .test { background: var(--c-red); }
.checks { list-style: none; padding: 0; } .checks li { padding-left: 1.6rem; text-indent: -1.6rem; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); color: var(--muted);
  font-size: .88rem; }
@media (max-width: 640px) { body { padding: 1.2rem .8rem 3rem; } dl { grid-template-columns: 1fr; gap: 0; }
  dd { margin-bottom: .5rem; } }
@media print { nav { display: none; } body { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } }
"""
