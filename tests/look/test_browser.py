"""The page in a real browser, by clicks, keys and fingers: fields, time, the globe, what is missing or broken."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@pytest.mark.parametrize(("size", "dark", "touch"), [(WIDE, False, False), (WIDE, True, False), (PHONE, True, True)])
def test_the_page_shows_fields_and_states(
    make_look: Any, serve: Any, visit: Any, size: Any, dark: bool, touch: bool
) -> None:
    with serve(make_look()) as server:
        page = visit(server.address, size, dark=dark, touch=touch)
        assert "encoder <b>run</b>" in page.inner_text("#about")  # a hostile name is text
        page.wait_for_selector("#points[data-drawn]")
        assert visit.colours(page) > 20
        assert visit.colours(page, "#points") >= 4
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= size["width"]
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, background[4:-1].split(","))) < 200) == dark


def test_value_under_the_cursor_is_the_stores(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    meta = look.meta()
    with serve(look) as server:
        page = visit(server.address)
        page.select_option("#variable", "u10")
        page.select_option("#kind", "value")
        visit.drawn(page, "u10/value/0")
        for row, column in ((1, 2), (3, 9), (5, 0)):
            lat, lon = meta["lat"][row], meta["lon"][column]
            value = look.fields.block("u10", "value", 0, 1)[0, row, column]
            text = visit.hover(page, *visit.share(lat - 0.5, lon + 0.5))
            assert float(text.split("  ")[1].split()[0]) == pytest.approx(value, rel=1e-3)
            assert text.endswith("m s⁻¹")


def test_missing_cells_are_hatched_and_said(make_look: Any, serve: Any, visit: Any) -> None:
    with serve(make_look()) as server:
        page = visit(server.address)
        page.select_option("#variable", "sst")
        visit.drawn(page, "sst/anomaly/0")
        place = visit.share(10, 95)  # land of the small store
        assert visit.hover(page, *place).endswith("missing")
        assert page.is_visible("#missing")
        near = {tuple(visit.pixel(page, place[0] + k / 500, place[1])) for k in range(12)}
        assert {(0x6D, 0x72, 0x78, 255), (0xB9, 0xBC, 0xBF, 255)} <= near  # two greys by turns, beside the coastline
        page.select_option("#variable", "u10")
        visit.drawn(page, "u10/anomaly/0")
        assert not page.is_visible("#missing")


def test_time_by_slider_date_buttons_keys_and_playback(make_look: Any, serve: Any, visit: Any) -> None:
    with serve(make_look()) as server:
        page = visit(server.address)
        page.click("#after")
        visit.drawn(page, "sst/anomaly/1")
        assert page.inner_text("#when") == "1981-02-01"  # UTC, whatever the browser's zone
        page.click("#before")
        page.click("#before")
        visit.drawn(page, "sst/anomaly/359")
        page.fill("#date", "1990-06-20")
        visit.drawn(page, "sst/anomaly/114")  # 1990-07-01 is nearest
        page.focus("#slider")
        page.keyboard.press("ArrowRight")
        visit.drawn(page, "sst/anomaly/115")
        page.focus("#field")
        page.keyboard.press(".")
        visit.drawn(page, "sst/anomaly/116")
        page.keyboard.press(",")
        visit.drawn(page, "sst/anomaly/115")
        page.select_option("#speed", "16")
        page.focus("#field")
        page.keyboard.press(" ")
        visit.says(page, "#play", "Pause")
        page.wait_for_timeout(800)
        page.focus("#field")
        page.keyboard.press(" ")
        visit.says(page, "#play", "Play")
        page.wait_for_timeout(200)
        step = int(page.input_value("#slider"))
        assert step >= 118
        visit.drawn(page, f"sst/anomaly/{step}")
        assert page.get_attribute("#slider", "aria-valuetext") == page.inner_text("#when")


def test_the_globe_turns_by_mouse_keys_and_finger(make_look: Any, serve: Any, visit: Any) -> None:
    def middle(page: Any) -> tuple[float, float]:
        box = page.locator("#field").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2 + 1, box["y"] + box["height"] / 2)
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        lat, lon = page.inner_text("#readout").split()[:2]
        return (float(lat[:-2]) * (-1 if lat[-1] == "S" else 1), float(lon[:-2]) * (-1 if lon[-1] == "W" else 1))

    with serve(make_look()) as server:
        page = visit(server.address)
        page.click("#as-globe")
        assert visit.pixel(page, 0.01, 0.01)[3] == 0  # beside the globe there is nothing
        assert middle(page) == pytest.approx((35, 0), abs=0.6)
        page.focus("#field")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("ArrowDown")
        assert middle(page) == pytest.approx((25, 10), abs=0.6)
        box = page.locator("#field").bounding_box()
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.down()
        page.mouse.move(x + 60, y, steps=6)
        page.wait_for_timeout(100)
        page.mouse.up()
        assert middle(page)[1] < 5  # the place that was taken goes with the hand
        page.focus("#field")
        for _ in range(4):
            page.keyboard.press("+")
        assert visit.pixel(page, 0.2, 0.5)[3] == 255  # zoomed in
        assert page.get_attribute("#field", "aria-label").startswith("Globe of sst (anomaly), 1981-01-01")
        phone = visit(server.address, PHONE, touch=True)
        phone.click("#as-globe")
        before = phone.evaluate("document.querySelector('#field').toDataURL()")
        box = phone.locator("#field").bounding_box()
        touch = phone.context.new_cdp_session(phone)
        for kind, dx in (("touchStart", 0), ("touchMove", 30), ("touchMove", 80), ("touchEnd", 0)):
            points = [] if kind == "touchEnd" else [{"x": box["x"] + 150 + dx, "y": box["y"] + 150}]
            touch.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
            phone.wait_for_timeout(60)
        assert phone.evaluate("document.querySelector('#field').toDataURL()") != before


def test_a_region_is_shown_as_a_region(small_data: Any, make_look: Any, serve: Any, visit: Any, tmp_path: Path) -> None:
    from earthssl.ssl.fields.splits import SplitsConfig
    from earthssl.ssl.prepare.config import PrepareConfig
    from earthssl.ssl.prepare.prepare import prepare

    small_data.isel(lat=slice(1, 5), lon=slice(3, 8)).to_netcdf(tmp_path / "region.nc")
    splits = SplitsConfig(("1981", "2000"), ("2002", "2005"), ("2007", "2010"), 365)
    options = {"path": str(tmp_path / "region.nc"), "variables": ["u10", "v10"]}
    store = prepare(PrepareConfig("files", str(tmp_path / "store"), splits, options, chunk_mb=0.05))
    with serve(make_look(store=store)) as server:
        page = visit(server.address)
        box = page.locator("#field").bounding_box()
        assert box["width"] / box["height"] == pytest.approx((150 + 24) / (120 + 24 - 9), rel=0.1)
        assert visit.hover(page, 0.5, 0.5).split()[1].endswith("E")
        assert "outside the grid" in visit.hover(page, 0.02, 0.5)
        assert page.inner_text("#points-said").startswith("No encoder")


def test_every_control_has_a_name_and_is_reached_by_tab(make_look: Any, serve: Any, visit: Any) -> None:
    with serve(make_look()) as server:
        page = visit(server.address)
        page.wait_for_selector("#points[data-drawn]")
        script = """() => [...document.querySelectorAll("button, select, input, [tabindex], [role=img]")]
            .filter(one => one.offsetParent && !(one.textContent.trim() || one.getAttribute("aria-label")
                || one.labels?.length)).map(one => one.id)"""
        for tab in ("space", "analogues", "label"):
            page.click(f"#tab-{tab}")
            assert page.evaluate(script) == []
        seen = set()
        page.focus("#variable")
        for _ in range(30):
            seen.add(page.evaluate("document.activeElement.id"))
            page.keyboard.press("Tab")
        assert {"variable", "kind", "as-globe", "field", "play", "slider", "date", "tab-label", "new-class"} <= seen
        page.focus("#tab-label")
        page.keyboard.press("ArrowRight")
        assert page.get_attribute("#tab-space", "aria-selected") == "true"


def test_a_broken_store_is_said_on_the_page(
    make_look: Any, serve: Any, visit: Any, small_store: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(small_store, broken)
    look = make_look(store=broken)
    chunks = sorted((broken / "fields" / "c").iterdir(), key=lambda one: int(one.name))
    shutil.rmtree(chunks[-1]) if chunks[-1].is_dir() else chunks[-1].unlink()
    look.store._chunk.cache_clear()
    with serve(look) as server:
        page = visit(server.address)
        page.click("#before")  # the last step
        page.wait_for_selector("#alert:not([hidden])")
        assert "chunk is missing" in page.inner_text("#alert")
        page.click("#after")
        visit.drawn(page, "sst/anomaly/0")
        assert not page.is_visible("#alert")
    visit.said[:] = [line for line in visit.said if "400" not in line]  # the browser's own line on the answer
