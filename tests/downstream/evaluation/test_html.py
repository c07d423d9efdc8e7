"""The small pieces of a page."""

from __future__ import annotations

from earthssl.downstream.results.html import Html, element, joined


def test_elements_escape_all_but_html() -> None:
    made = element("a", "<b>", Html("<i></i>"), 3, href='"x"', class_="y", id=None)
    assert made == '<a href="&quot;x&quot;" class="y">&lt;b&gt;<i></i>3</a>'
    assert joined(["<", Html("<")]) == "&lt;<"
