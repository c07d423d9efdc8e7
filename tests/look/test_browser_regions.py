"""Regions in a real browser: by mouse, fingers and keys, on map and globe; kept through a kill; refused in words."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earthssl.downstream.finetune.read_labels import read_labels
from earthssl.look.labels.outlines import cells_of, check_outline
from earthssl.look.labels.region_tables import MASKS

BOX = [(20, 130), (20, -140), (70, -140), (70, 130)]  # over the date line
MOST_S = 120  # for a process to end, on a machine under load
PHONE = {"width": 390, "height": 844}


def draw(page: Any, name: str = "storm") -> None:
    """Open the tab of labels and begin to draw regions of a class."""
    page.click("#tab-label")
    page.fill("#new-class", name)
    page.keyboard.press("Enter")
    page.check("#mark-region")


def masks(folder: Path, name: str = "storm") -> Any:
    return read_labels(str(folder / MASKS), [name], "field")


def test_a_region_over_the_date_line_is_drawn_by_mouse_closed_undone_and_removed(
    make_look: Any, serve: Any, visit: Any
) -> None:
    look = make_look()
    folder, grid = look.journal.folder, look.store.grid
    with serve(look) as server:
        page = visit(server.address)
        draw(page)
        page.click("#after")
        visit.drawn(page, "sst/anomaly/1")
        for k, corner in enumerate(BOX, 1):
            visit.hover(page, *visit.share(*corner), click=True)
            visit.says(page, "#region-said", f"{k} corner")
        visit.says(page, "#region-said", ", saved")
        assert len(look.journal.draft["corners"]) == 4
        page.click("#drop-corner")
        visit.says(page, "#region-said", "3 corners")
        visit.hover(page, *visit.share(*BOX[3]), click=True)
        visit.hover(page, *visit.share(*BOX[0]), click=True)  # the first corner again closes it
        visit.says(page, "#saved", "1 labels")
        labels = masks(folder)
        assert labels.times.astype(str).tolist() == ["1981-02-01T00:00:00"]
        np.testing.assert_array_equal(labels.values[0], cells_of(check_outline(BOX), grid))
        assert look.journal.draft is None
        inside = [visit.pixel(page, *visit.share(46, lon)) for lon in (175, -160)]
        assert page.locator("#marks li").inner_text().startswith("1981-02-01 storm round")
        page.click("#undo")
        visit.says(page, "#saved", "0 labels")
        assert [visit.pixel(page, *visit.share(46, lon)) for lon in (175, -160)] != inside  # it was shown
        page.keyboard.press("0")
        visit.says(page, "#marks", "no region")
        for corner in ((-50, 30), (-50, 90), (-80, 60)):
            visit.hover(page, *visit.share(*corner), click=True)
        page.click("#close-region")
        visit.says(page, "#marks", "storm")
        assert page.locator("#marks li").count() == 1  # a region takes back that there is none
        assert masks(folder).values.sum() > 0
        page.get_by_role("button", name="remove storm of 1981-02-01").click()
        visit.says(page, "#marks", "no region")


def test_a_region_by_keys_alone_on_map_and_globe(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    with serve(look) as server:
        page = visit(server.address)
        page.focus("#tab-label")
        page.keyboard.press("Enter")
        page.focus("#new-class")
        page.keyboard.type("front")
        page.keyboard.press("Enter")
        page.focus("#mark-region")
        page.keyboard.press(" ")
        assert page.is_visible("#region-bar")
        page.focus("#field")
        for keys in (
            "ArrowLeft ArrowRight",
            "ArrowRight " * 4,
            "ArrowUp ArrowUp",
            "ArrowLeft",
        ):  # by 15°
            for key in keys.split():
                page.keyboard.press(key)
            page.keyboard.press("Enter")
        visit.says(page, "#region-said", "4 corners of front, the last at 65.0°N 45.0°E, saved")
        page.keyboard.press("Backspace")
        visit.says(page, "#region-said", "3 corners of front")
        page.keyboard.press("c")
        visit.says(page, "#saved", "1 labels")
        expected = cells_of(check_outline([[35, 0], [35, 60], [65, 60]]), look.store.grid)
        np.testing.assert_array_equal(masks(look.journal.folder, "front").values[0], expected)
        page.click("#as-globe")
        page.focus("#field")
        for keys in ("ArrowDown", "ArrowRight ArrowRight ArrowRight ArrowRight", "ArrowDown ArrowDown ArrowDown"):
            for key in keys.split():
                page.keyboard.press(key)
            page.keyboard.press("Enter")  # what lies in the middle of the globe
        visit.says(page, "#region-said", "3 corners of front, the last at 5.0°S 40.0°E")
        page.keyboard.press("Escape")
        visit.says(page, "#region-said", "Class front: click")
        page.wait_for_function("() => fetch('api/labels').then(a => a.json()).then(found => found.draft === null)")
        page.keyboard.press("u")
        visit.says(page, "#saved", "0 labels")
        names = page.locator("#region-bar button").all_inner_texts()
        assert all(names)
        assert page.get_attribute("#region-bar", "aria-label")
        assert page.get_attribute("#region-said", "aria-live") == "polite"


def test_a_region_is_saved_under_the_class_that_is_shown(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    with serve(look) as server:
        page = visit(server.address)
        draw(page)
        for corner in BOX[:3]:
            visit.hover(page, *visit.share(*corner), click=True)
        visit.says(page, "#region-said", "3 corners of storm")
        page.fill("#new-class", "front")
        page.keyboard.press("Enter")
        visit.says(page, "#region-said", "3 corners of front")
        visit.says(page, "#region-said", ", saved")
        assert look.journal.draft["label"] == "front"
        other = visit(server.address)  # there another class is chosen before the draft is known
        other.evaluate("() => import('./state.js').then(({ state }) => { state.activeClass = 'storm'; })")
        other.click("#tab-label")
        visit.says(other, "#region-said", "3 corners of front")
        other.click("#close-region")
        visit.says(other, "#saved", "1 labels")
        assert [mark.label for mark in look.journal.current()] == ["front"]


def test_a_region_by_fingers_on_the_globe_of_a_phone(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    with serve(look) as server:
        page = visit(server.address, PHONE, touch=True, dark=True)
        draw(page)
        page.click("#as-globe")
        page.locator("#field").scroll_into_view_if_needed()
        box = page.locator("#field").bounding_box()
        for x, y in ((0.3, 0.3), (0.7, 0.3), (0.7, 0.75), (0.35, 0.7)):
            page.touchscreen.tap(box["x"] + x * box["width"], box["y"] + y * box["height"])
        visit.says(page, "#region-said", "4 corners")
        page.locator("#close-region").tap()
        visit.says(page, "#saved", "1 labels")
        (mark,) = look.journal.current()
        assert len(mark.outline) == 4
        assert masks(look.journal.folder).values[0].sum() == cells_of(mark.outline, look.store.grid).sum() > 2
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_what_cannot_stand_is_said_and_may_be_mended(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    with serve(look) as server:
        page = visit(server.address)
        page.click("#tab-label")
        page.check("#mark-region")
        visit.says(page, "#region-said", "Add or choose a class first")
        draw(page)
        for corner in ((0, 0), (50, 60), (50, 0), (0, 60)):
            visit.hover(page, *visit.share(*corner), click=True)
        page.click("#close-region")
        page.wait_for_selector("#alert:not([hidden])")
        assert "does not cross or touch itself" in page.inner_text("#alert")
        page.click("#after")
        visit.says(page, "#region-said", "unfinished region of 1981-01-01 (4 corners) is kept")
        visit.hover(page, *visit.share(40, 40), click=True)
        page.wait_for_selector("#alert:not([hidden])")
        page.click("#before")
        page.click("#drop-corner")
        visit.says(page, "#region-said", "3 corners")
        other = visit(server.address)  # another tab goes on with it
        other.click("#tab-label")
        visit.says(other, "#region-said", "3 corners of storm")
        other.click("#close-region")
        visit.says(other, "#saved", "1 labels")
        page.evaluate("window.dispatchEvent(new Event('focus'))")
        visit.says(page, "#saved", "1 labels")
        visit.says(page, "#region-said", "Class storm")
    visit.said[:] = [line for line in visit.said if "400" not in line]  # the browser's own line on the answer


@pytest.mark.slow
def test_a_kill_while_a_region_is_drawn_loses_no_corner(
    started: Any, small_store: Path, visit: Any, tmp_path: Path
) -> None:
    def start() -> tuple[Any, str]:
        return started(small_store, tmp_path / "look")

    first, address = start()
    page = visit(address)
    draw(page)
    page.click("#after")
    for k, corner in enumerate(BOX[:3], 1):
        visit.hover(page, *visit.share(*corner), click=True)
        visit.says(page, "#region-said", f"{k} corner")
    visit.says(page, "#region-said", ", saved")
    first.kill()
    first.communicate()
    visit.hover(page, *visit.share(*BOX[3]), click=True)
    page.wait_for_selector("#alert:not([hidden])")
    assert ", saved" not in page.inner_text("#region-said")
    second, address = start()
    again = visit(address)
    again.click("#tab-label")
    visit.says(again, "#region-said", "An unfinished region of 1981-02-01 (3 corners)")
    again.click("#after")
    visit.says(again, "#region-said", "3 corners of storm")
    visit.hover(again, *visit.share(*BOX[3]), click=True)
    again.click("#close-region")
    visit.says(again, "#saved", "1 labels")
    second.kill()
    second.communicate()
    labels = masks(tmp_path / "look")
    np.testing.assert_array_equal(labels.values[0], cells_of(check_outline(BOX), labels.grid))
    third, address = start()
    last = visit(address)
    last.click("#tab-label")
    assert last.inner_text("#saved") == "1 labels, all saved"
    third.send_signal(signal.SIGINT)
    third.communicate(timeout=MOST_S)
    visit.said[:] = [line for line in visit.said if "ERR_CONNECTION_REFUSED" not in line]
