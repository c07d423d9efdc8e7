"""The site and its picture: built without a warning, complete, and asking nobody for anything."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import earthssl
import pytest

ROOT = Path(__file__).resolve().parents[2]


def words(svg: Path) -> list[str]:
    """Return the texts of a picture, which matplotlib writes down as comments beside their outlines."""
    return re.findall(r"<!-- (.*?) -->", svg.read_text(encoding="utf-8"))


def test_the_picture_is_what_its_script_draws(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("draw_flow", ROOT / "docs" / "draw_flow.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    script.draw(tmp_path / "flow.svg")
    drawn = words(tmp_path / "flow.svg")
    assert drawn == words(ROOT / "docs" / "flow.svg")
    assert [word for word in drawn if word in ("source", "store", "pretrain", "checkpoint", "probe", "report")]


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


class Fetched(HTMLParser):
    """Collects what a browser would fetch to show a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Take down addresses of scripts, styles, pictures and frames; links are followed by people only."""
        at = dict(attrs)
        if tag in ("script", "img", "iframe", "source") and at.get("src"):
            self.found.append(str(at["src"]))
        if tag == "link" and at.get("href") and at.get("rel") != "canonical":
            self.found.append(str(at["href"]))


@pytest.mark.slow
def test_the_site_is_built_without_a_warning_and_offline(tmp_path: Path) -> None:
    """As `make docs` does; every public name has a page, and no page fetches anything from elsewhere."""
    pages = tmp_path / "pages"
    subprocess.run(["cp", "-r", str(ROOT / "docs"), str(pages)], check=True)
    site = tmp_path / "site"
    subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", str(pages), str(site)], check=True)
    for name in earthssl.__all__:
        if name != "__version__":
            assert (site / "api" / f"earthssl.{name}.html").is_file(), name
    fetched = set()
    for page in site.rglob("*.html"):
        reader = Fetched()
        reader.feed(page.read_text(encoding="utf-8"))
        fetched |= set(reader.found)
    assert fetched
    assert [address for address in fetched if re.match(r"(https?:)?//", address)] == []
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import\s+)[\"']?(https?:)?//", style.read_text(encoding="utf-8")), style
