"""The pages, and the code blocks in them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs").glob("*/README.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Attributes:
        page: Path from the root.
        line: Of its fence.
        language: After the fence; "" for none.
        code: Its lines.
        marker: Text of the HTML comment right before it; "" for none.
    """

    page: str
    line: int
    language: str
    code: str
    marker: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def file(self) -> str:
        """Path that the first line gives the block as a file; "" where it is none."""
        found = re.match(r"# ([\w./-]+\.(?:py|yaml))\n", self.code)
        return found[1] if found else ""


def _blocks_of(page: Path) -> list[Block]:
    """Return the fenced blocks of a page in their order."""
    found: list[Block] = []
    name = str(page.relative_to(ROOT)) if page.is_relative_to(ROOT) else page.name
    lines, marker = page.read_text(encoding="utf-8").splitlines(), ""
    k = 0
    while k < len(lines):
        fence = re.match(r"(`{3,})(.*)$", lines[k])
        comment = re.fullmatch(r"<!-- (.*) -->", lines[k])
        if fence:
            end = next(i for i in range(k + 1, len(lines)) if lines[i].startswith(fence[1]))
            code = "".join(line + "\n" for line in lines[k + 1 : end])
            found.append(Block(name, k + 1, fence[2].strip(), code, marker))
            k = end
        marker = comment[1] if comment else "" if fence or lines[k].strip() else marker
        k += 1
    return found


@pytest.fixture(params=PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def page(request: pytest.FixtureRequest) -> Path:
    """Each page: README.md and what lies in docs/."""
    return Path(request.param)


@pytest.fixture
def blocks(page: Path) -> list[Block]:
    """The fenced blocks of the page."""
    return _blocks_of(page)


@pytest.fixture
def blocks_of() -> Callable[[Path], list[Block]]:
    """Reader of the fenced blocks of a file."""
    return _blocks_of
