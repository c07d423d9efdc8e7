"""The pictures of docs/look.md, made by clicks and keys: on the small store here, on the weather planet for the docs.

EARTHSSL_PICTURES="STORE CHECKPOINT LABELS FOLDER" pytest -m slow tests/look/test_screenshots.py writes them to docs/.
LABELS is a table of the days with the column blocking_0d; FOLDER keeps features and is to hold no labels yet.
"""

from __future__ import annotations

import argparse
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

DOCS = Path(__file__).parents[2] / "docs"
NAMES = ("look-states", "look-label", "look-region")
REPORT = "look-report"  # made by test_browser_reports
SIZE, SCALE = {"width": 1400, "height": 900}, 0.7
BLOCK = ((46, -20), (44, 15), (62, 30), (72, 5), (66, -25))  # over Europe


def size_of(file: Path) -> tuple[int, int]:
    """Return width and height of a PNG."""
    head = file.read_bytes()[:24]
    assert head[:8] == b"\x89PNG\r\n\x1a\n"
    width, height = struct.unpack(">II", head[16:24])
    return width, height


def take(page: Any, visit: Any, truth: Callable[[str], bool], rounds: int, day: str, folder: Path) -> None:
    """Go through the page as the walk-through does, and take the pictures on the way."""
    page.wait_for_selector("#points[data-drawn]")
    page.click("#as-globe")
    page.wait_for_timeout(300)
    page.screenshot(path=folder / "look-states.png")
    page.click("#as-map")
    visit.classes(page, "blocked", "free")
    page.click("#propose")
    page.wait_for_selector("#proposals button")
    page.focus("#field")
    for k in range(8 * rounds):
        day_asked = page.locator("#proposals button[aria-current=true]").inner_text()
        visit.says(page, "#when", day_asked)  # the picture is there
        page.keyboard.press("1" if truth(day_asked) else "2")
        visit.says(page, "#saved", f"{k + 1} labels")
    visit.says(page, "#score", f"with {7 * rounds} labels")  # one of eight is of test, and tells it nothing
    page.wait_for_timeout(300)
    page.screenshot(path=folder / "look-label.png")
    page.check("#mark-region")
    page.click("#classes button >> nth=0")
    page.fill("#date", day)
    page.wait_for_timeout(500)
    page.click("#as-globe")
    page.focus("#field")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowUp")
    forward = """([lat, lon]) => { // from the middle of the globe, which the keys have turned to 55°N 0°E
        const box = document.querySelector("#field").getBoundingClientRect(), r = Math.PI / 180;
        const radius = Math.min(box.width, box.height) / 2 - 6, p = lat * r, l = lon * r, p0 = 55 * r;
        return [box.left + box.width / 2 + radius * Math.cos(p) * Math.sin(l), box.top + box.height / 2
            - radius * (Math.cos(p0) * Math.sin(p) - Math.sin(p0) * Math.cos(p) * Math.cos(l))]; }"""
    for k, corner in enumerate(BLOCK, 1):
        page.mouse.click(*page.evaluate(forward, list(corner)))
        visit.says(page, "#region-said", f"{k} corner")
    page.keyboard.press("c")
    visit.says(page, "#saved", f"{8 * rounds + 1} labels")
    page.mouse.move(5, 5)
    page.wait_for_timeout(300)
    page.screenshot(path=folder / "look-region.png")


@pytest.mark.slow
def test_the_pictures_of_the_docs_are_made(
    make_look: Any, serve: Any, visit: Any, browser: Any, tmp_path: Path
) -> None:
    wanted, folder = os.environ.get("EARTHSSL_PICTURES"), tmp_path
    if wanted:
        from earthssl.cli.look import _opened
        from earthssl.look.labels.journal import Journal
        from earthssl.ssl.store.store import Store

        address, checkpoint, labels, out = wanted.split()
        store = Store(address)
        options = argparse.Namespace(checkpoint=checkpoint, labels=labels, run=None)
        look, weights = _opened(options, store, Journal(Path(out), store.grid))
        look.start(weights).join()
        table = pd.read_csv(labels)
        blocked = set(table["time"][table["blocking_0d"] == 1].str[:10])
        folder, rounds = DOCS, 12
        day = min(one for one in blocked if one > "1950-12")

        def truth(when: str) -> bool:
            return when in blocked
    else:
        look, rounds, day = make_look(), 1, "1990-01-01"

        def truth(when: str) -> bool:
            return 4 <= int(when[5:7]) <= 9

    with serve(look) as server:
        context = browser.new_context(viewport=SIZE, device_scale_factor=SCALE)
        visit.contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(server.address)
        page.wait_for_selector("#field[data-drawn]")
        take(page, visit, truth, rounds, day, folder)
        print(page.inner_text("#score"))
    for name in NAMES:
        assert size_of(folder / f"{name}.png") == (980, 630)
        assert (folder / f"{name}.png").stat().st_size > 20_000
    assert any(mark.kind == "region" for mark in look.journal.current())


def test_the_docs_show_the_pictures() -> None:
    shown = re.findall(r"\]\((look-\w+)\.png\)", (DOCS / "look.md").read_text(encoding="utf-8"))
    assert sorted(shown) == sorted([*NAMES, REPORT])
    for name in [*NAMES, REPORT]:
        assert size_of(DOCS / f"{name}.png") == (980, 630)
