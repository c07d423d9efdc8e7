"""No dead link: every relative link, every anchor, every picture, and every file that a page names is there."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"!?\[(?:[^\]\\]|\\.)*\]\(([^()\s]+)\)")
FOLDERS = ("benchmarks", "cli", "configs", "docs", "downstream", "pretext", "registry", "ssl", "tests")


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^(`{3,}).*?^\1`*$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as the forges and the site make them."""
    found: dict[str, int] = {}
    names = set()
    for heading in re.findall(r"^#{1,6} (.+)$", prose(page), flags=re.M):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "").strip().lower()
        slug = "".join(
            "-" if sign == " " else sign for sign in text if sign in " -_" or unicodedata.category(sign)[0] in "LNM"
        )
        names.add(slug if slug not in found else f"{slug}-{found[slug]}")
        found[slug] = found.get(slug, 0) + 1
    return names


def dead(page: Path, text: str) -> list[str]:
    """Return the relative links in the text that lead nowhere."""
    wrong = []
    for target in LINK.findall(text):
        if re.match(r"[a-z]+:", target):
            continue  # elsewhere; nothing is asked for over a network
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        inside = file.is_relative_to(ROOT) and file.exists()
        if not inside or (anchor and (file.suffix != ".md" or anchor not in anchors(file))):
            wrong.append(target)
    return wrong


def test_every_link_and_anchor_is_there(page: Path) -> None:
    assert dead(page, prose(page)) == []


def test_every_file_that_is_named_is_there(page: Path) -> None:
    """`folder/file.suffix` in prose, from the root or beside the page."""
    wrong = []
    for name in re.findall(rf"`((?:{'|'.join(FOLDERS)})/[\w./-]+)", prose(page)):
        if page.name == "changelog.md":
            continue  # tells of what there was
        if not (ROOT / name).exists() and not (page.parent / name).exists():
            wrong.append(name)
    assert wrong == []


@pytest.mark.parametrize(
    "link", ["docs/no-such.md", "docs/results.md#no-such", "../outside.md", "#no-such", "LICENSE#a"]
)
def test_a_dead_link_is_found(link: str) -> None:
    assert dead(ROOT / "README.md", f"see [it]({link}), [a](docs/results.md#results) and [b](https://example.org)") == [
        link
    ]


def test_every_page_is_reached_from_the_readme_and_listed_on_the_site() -> None:
    start, reached = ROOT / "README.md", set()
    left = [start]
    while left:
        page = left.pop()
        for target in LINK.findall(prose(page)):
            file = (page.parent / target.partition("#")[0]).resolve()
            if file.suffix == ".md" and file.is_file() and file not in reached:
                reached.add(file)
                left.append(file)
    pages = {*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("*/README.md")}
    assert pages - reached <= {ROOT / "docs" / "index.md"}  # the site's own start
    listed = (ROOT / "docs" / "index.md").read_text(encoding="utf-8").split("{toctree}", 1)[1]
    for page in pages - {ROOT / "docs" / "index.md"}:
        assert str(page.relative_to(ROOT / "docs")).removesuffix(".md") in listed.split(), page
