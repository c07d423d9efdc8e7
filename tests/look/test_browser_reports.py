"""A report in a real browser, from its file: its globes turn by mouse, keys and finger, its link opens look."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from earthssl.cli.look_page import add_look_page
from earthssl.downstream.results.figures import map_figure
from earthssl.downstream.results.summary import DIFFERENCES, SCORES, Summary
from earthssl.ssl.store.store import Store

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
DOCS = Path(__file__).parents[2] / "docs"
READY = "body[data-globes]"


@pytest.fixture(scope="module")
def report(small_store: Path, small_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with two pictures of maps, of two and of four, and the page of look beside them."""
    store = Store(small_store)
    fields = store.read([0, 1, 2, 3])[:, 0]
    few, many = (
        map_figure({f"step {k}": fields[k] for k in range(count)}, store.grid, 2.0, "sst", "A title", "K")
        for count in (2, 4)
    )
    summary = Summary(
        "states", "A result", "none", pd.DataFrame([("a", "", "t", "r", 0.5, 0.4, 0.6)], columns=list(SCORES)),
        pd.DataFrame([], columns=list(DIFFERENCES)),
        {"config": {"store": str(small_store), "checkpoints": [str(small_run)]}}, figures={"few": few, "many": many},
    )  # fmt: skip
    page = summary.write(tmp_path_factory.mktemp("report") / "probe") / "report.html"
    assert add_look_page(page, {"store": str(small_store), "checkpoints": [str(small_run)]}) is not None
    return page


@pytest.mark.parametrize(("size", "dark"), [(WIDE, False), (PHONE, True)])
def test_globes_stand_where_maps_are(report: Path, visit: Any, size: Any, dark: bool) -> None:
    page = visit(report.as_uri(), size, dark=dark, touch=dark, ready=READY)
    assert page.locator(".globes").count() == 2
    for k in range(5):
        assert visit.colours(page, f"canvas.field >> nth={k}") > 20
    assert page.locator("img").count() == 2
    assert page.locator("img:visible").count() == 1  # of four maps, of which three are on globes
    page.emulate_media(media="print")
    assert page.locator("img:visible").count() == 2
    assert page.locator(".globes:visible").count() == 0
    page.emulate_media(media="screen")
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, background[4:-1].split(","))) < 200) == dark
    page.emulate_media(color_scheme="light" if dark else "dark")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != background


def test_globes_turn_by_mouse_and_keys_and_say_values(report: Path, visit: Any, small_store: Path) -> None:
    page = visit(report.as_uri(), ready=READY)
    first, second = (page.locator("canvas.field").nth(k) for k in (0, 1))
    assert first.get_attribute("data-drawn") == "0/globe/35.0°N 0.0°E"
    first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Shift+ArrowUp")
    for k, one in enumerate((first, second)):  # together
        assert one.get_attribute("data-drawn") == f"{k}/globe/27.0°N 10.0°E"
    assert first.get_attribute("aria-label") == "Globe of step 0, 27.0°N 10.0°E in the middle"
    store = Store(small_store)
    value = store.read([1])[0, 0][np.abs(store.grid.lat - 27).argmin(), np.abs(store.grid.lon - 10).argmin()]
    said = page.locator("output").nth(1).inner_text()
    assert said.startswith("27.0°N 10.0°E")
    assert said.endswith("missing") if np.isnan(value) else float(said.split()[-2]) == pytest.approx(value, rel=1e-2)
    box = first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 80, y + 10, steps=4)
    page.mouse.up()
    lon = second.get_attribute("data-drawn").split()[-1]
    assert lon.endswith("W")  # the place that was taken goes with the hand
    page.keyboard.press("+")
    page.get_by_role("button", name="Map").first.click()
    assert first.get_attribute("data-drawn").startswith("0/map/")
    page.select_option("figure >> nth=-1 >> select >> nth=0", "3")
    assert page.locator("canvas.field").nth(2).get_attribute("data-drawn").startswith("3/globe/")
    script = """() => [...document.querySelectorAll("button, select, [tabindex], [role=img]")]
        .filter(one => !(one.textContent.trim() || one.getAttribute("aria-label"))).length"""
    assert page.evaluate(script) == 0


def test_a_finger_turns_a_globe_and_the_page_still_scrolls(report: Path, visit: Any) -> None:
    page = visit(report.as_uri(), PHONE, touch=True, ready=READY)
    canvas = page.locator("canvas.field").first
    canvas.scroll_into_view_if_needed()
    before, box = canvas.get_attribute("data-drawn"), canvas.bounding_box()
    touch = page.context.new_cdp_session(page)
    for kind, dx in (("touchStart", 0), ("touchMove", 20), ("touchMove", 60), ("touchEnd", 0)):
        points = [] if kind == "touchEnd" else [{"x": box["x"] + 60 + dx, "y": box["y"] + 80}]
        touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        page.wait_for_timeout(60)
    assert canvas.get_attribute("data-drawn") != before
    assert page.eval_on_selector("canvas.field", "one => getComputedStyle(one).touchAction") == "pan-y"


def test_the_link_opens_look_with_fields_states_and_the_pictures_maps(report: Path, visit: Any) -> None:
    page = visit(report.as_uri(), ready=READY)
    page.get_by_role("link", name="Open in look").click()
    page.wait_for_selector("#field[data-drawn]")
    page.wait_for_selector("#points[data-drawn]")
    page.click("#as-globe")
    assert visit.pixel(page, 0.01, 0.01)[3] == 0
    page.click("#tab-maps")
    page.wait_for_selector('#run-map[data-drawn="0/0"]')
    assert page.locator("#map-of option").all_inner_texts() == ["map_few.nc: maps", "map_many.nc: maps"]
    page.select_option("#map-of", "1")
    page.select_option("#map-choices select", "3")
    page.wait_for_selector('#run-map[data-drawn="1/3"]')
    assert visit.colours(page, "#run-map") > 20


def test_the_picture_of_the_docs_is_made(report: Path, browser: Any, tmp_path: Path) -> None:
    """EARTHSSL_REPORT=report.html makes docs/look-report.png of a report's first globes."""
    wanted = os.environ.get("EARTHSSL_REPORT")
    picture = DOCS / "look-report.png" if wanted else tmp_path / "look-report.png"
    context = browser.new_context(viewport={"width": 1400, "height": 900}, device_scale_factor=0.7, color_scheme="dark")
    page = context.new_page()
    page.goto(Path(wanted or report).resolve().as_uri())
    page.wait_for_selector(READY)
    page.eval_on_selector("section:has(.globes)", "one => one.scrollIntoView()")
    canvas = page.locator("canvas.field").first
    canvas.focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_timeout(400)
    page.screenshot(path=picture)
    context.close()
    assert picture.stat().st_size > 20_000


def test_without_scripts_the_pictures_are_there(report: Path, browser: Any) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri())
    assert page.locator("img:visible").count() == 2
    assert page.locator(".globes").count() == 0
    context.close()
