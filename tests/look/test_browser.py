"""The page in a real browser, by clicks, keys and fingers; skipped where there is no Chromium."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earthssl.downstream.finetune.read_labels import read_labels

sync_api = pytest.importorskip("playwright.sync_api", reason="needs the extra `browser` (playwright)")
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    named = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            found = playwright.chromium.launch(executable_path=named)
        except sync_api.Error as error:
            pytest.skip(f"needs Chromium: {str(error).splitlines()[0]}")
        yield found
        found.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opener of pages; whatever a page complains of, or asks of another address, fails the test."""
    said: list[str] = []
    contexts = []

    def open_page(address: str, size: dict[str, int] = WIDE, *, dark: bool = False, touch: bool = False) -> Any:
        context = browser.new_context(
            viewport=size, color_scheme="dark" if dark else "light", has_touch=touch, timezone_id="America/Los_Angeles"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: said.append(message.text) if message.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: said.append(str(error)))
        root = address.rsplit("/", 2)[0]
        page.on("request", lambda one: None if one.url.startswith((root, "data:")) else said.append(one.url))
        page.goto(address)
        page.wait_for_selector("#field[data-drawn]")
        return page

    open_page.said = said  # type: ignore[attr-defined]
    yield open_page
    for context in contexts:
        context.close()
    assert [line for line in said if "willReadFrequently" not in line] == []  # that one is on these tests' reading


def drawn(page: Any, what: str) -> None:
    """Wait until the large picture shows this: variable/kind/step."""
    page.wait_for_selector(f'#field[data-drawn="{what}"]')


def says(page: Any, selector: str, text: str) -> None:
    """Wait until an element says this."""
    sync_api.expect(page.locator(selector)).to_contain_text(text, timeout=15_000)


def colours(page: Any, canvas: str = "#field") -> int:
    """Return how many different colours a canvas shows."""
    script = """canvas => new Set(new Uint32Array(canvas.getContext("2d").getImageData(
        0, 0, canvas.width, canvas.height).data.buffer)).size"""
    return int(page.eval_on_selector(canvas, script))


def pixel(page: Any, x: float, y: float) -> list[int]:
    """Return the colour at a share of the picture's width and height."""
    script = """(canvas, [x, y]) => Array.from(canvas.getContext("2d").getImageData(
        Math.round(x * canvas.width), Math.round(y * canvas.height), 1, 1).data)"""
    return list(page.eval_on_selector("#field", script, [x, y]))


def hover(page: Any, x: float, y: float, click: bool = False) -> str:
    """Move to a share of the picture and return what stands under it."""
    box = page.locator("#field").bounding_box()
    at = (box["x"] + x * box["width"], box["y"] + y * box["height"])
    page.mouse.click(*at) if click else page.mouse.move(*at)
    return str(page.inner_text("#readout"))


def share(meta: dict[str, Any], lat: float, lon: float) -> tuple[float, float]:
    """Return where a place lies on the map of the whole Earth."""
    return (lon + 180) % 360 / 360, (90 - lat) / 180


@pytest.mark.parametrize(("size", "dark", "touch"), [(WIDE, False, False), (WIDE, True, False), (PHONE, True, True)])
def test_the_page_shows_fields_and_states(
    make_look: Any, serve: Any, visit: Any, size: Any, dark: bool, touch: bool
) -> None:
    with serve(make_look()) as server:
        page = visit(server.address, size, dark=dark, touch=touch)
        assert "encoder <b>run</b>" in page.inner_text("#about")  # a hostile name is text
        page.wait_for_selector("#points[data-drawn]")
        assert colours(page) > 20
        assert colours(page, "#points") >= 4
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
        drawn(page, "u10/value/0")
        for row, column in ((1, 2), (3, 9), (5, 0)):
            lat, lon = meta["lat"][row], meta["lon"][column]
            value = look.fields.block("u10", "value", 0, 1)[0, row, column]
            text = hover(page, *share(meta, lat - 0.5, lon + 0.5))
            assert float(text.split("  ")[1].split()[0]) == pytest.approx(value, rel=1e-3)
            assert text.endswith("m s⁻¹")


def test_missing_cells_are_hatched_and_said(make_look: Any, serve: Any, visit: Any) -> None:
    with serve(make_look()) as server:
        page = visit(server.address)
        page.select_option("#variable", "sst")
        drawn(page, "sst/anomaly/0")
        place = share({}, 10, 95)  # land of the small store
        assert hover(page, *place).endswith("missing")
        assert page.is_visible("#missing")
        near = {tuple(pixel(page, place[0] + k / 500, place[1])) for k in range(12)}
        assert {(0x6D, 0x72, 0x78, 255), (0xB9, 0xBC, 0xBF, 255)} <= near  # two greys by turns, beside the coastline
        page.select_option("#variable", "u10")
        drawn(page, "u10/anomaly/0")
        assert not page.is_visible("#missing")


def test_time_by_slider_date_buttons_keys_and_playback(make_look: Any, serve: Any, visit: Any) -> None:
    with serve(make_look()) as server:
        page = visit(server.address)
        page.click("#after")
        drawn(page, "sst/anomaly/1")
        assert page.inner_text("#when") == "1981-02-01"  # UTC, whatever the browser's zone
        page.click("#before")
        page.click("#before")
        drawn(page, "sst/anomaly/359")
        page.fill("#date", "1990-06-20")
        drawn(page, "sst/anomaly/114")  # 1990-07-01 is nearest
        page.focus("#slider")
        page.keyboard.press("ArrowRight")
        drawn(page, "sst/anomaly/115")
        page.focus("#field")
        page.keyboard.press(".")
        drawn(page, "sst/anomaly/116")
        page.keyboard.press(",")
        drawn(page, "sst/anomaly/115")
        page.select_option("#speed", "16")
        page.focus("#field")
        page.keyboard.press(" ")
        says(page, "#play", "Pause")
        page.wait_for_timeout(800)
        page.focus("#field")
        page.keyboard.press(" ")
        says(page, "#play", "Play")
        page.wait_for_timeout(200)
        step = int(page.input_value("#slider"))
        assert step >= 118
        drawn(page, f"sst/anomaly/{step}")
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
        assert pixel(page, 0.01, 0.01)[3] == 0  # beside the globe there is nothing
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
        assert pixel(page, 0.2, 0.5)[3] == 255  # zoomed in
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


def test_points_are_clicked_brushed_and_coloured(make_look: Any, serve: Any, visit: Any, tmp_path: Path) -> None:
    (tmp_path / "known.csv").write_text(
        "time,number,word\n" + "".join(f"{1981 + k // 12}-{k % 12 + 1:02d},{k},{'ab'[k % 2]}\n" for k in range(360))
    )
    look = make_look(tmp_path / "known.csv")
    states = look.progress.states()
    with serve(look) as server:
        page = visit(server.address)
        page.wait_for_selector('#points[data-drawn="season/358"]')
        assert page.locator("#points-legend li").all_inner_texts() == ["Dec–Feb", "Mar–May", "Jun–Aug", "Sep–Nov"]
        for by, texts in (("block", ["train", "val", "test"]), ("known:word", ["a", "b"])):
            page.select_option("#colour-by", by)
            page.wait_for_selector(f'#points[data-drawn="{by}/358"]')
            assert page.locator("#points-legend li").all_inner_texts() == texts
        for by in ("year", "known:number"):
            page.select_option("#colour-by", by)
            page.wait_for_selector(f'#points[data-drawn="{by}/358"]')
            assert page.locator("#points-legend li").count() == 12
        box = page.locator("#points-over").bounding_box()
        pad, x, y = 14, states.features[:, 0], states.features[:, 1]
        px = pad + (x - x.min()) / np.ptp(x) * (box["width"] - 2 * pad)
        py = box["height"] - pad - (y - y.min()) / np.ptp(y) * (box["height"] - 2 * pad)
        chosen = int(px.argmax())
        page.mouse.click(box["x"] + float(px[chosen]), box["y"] + float(py[chosen]))
        drawn(page, f"sst/anomaly/{states.rows[chosen]}")
        left, top, right, low = 60.0, 60.0, 200.0, 260.0
        page.mouse.move(box["x"] + left, box["y"] + top)
        page.mouse.down()
        page.mouse.move(box["x"] + right, box["y"] + low, steps=5)
        page.mouse.up()
        drawn(page, "sst/anomaly/mean")
        inside = int(((px > left) & (px < right) & (py > top) & (py < low)).sum())
        assert page.inner_text("#when") == f"mean of {inside} states"
        page.select_option("#variable", "u10")
        drawn(page, "u10/anomaly/mean")
        page.click("#end-mean")
        drawn(page, f"u10/anomaly/{states.rows[chosen]}")
        page.focus("#points-over")  # the same by keys
        dx, dy = (int((np.median(one) - one[chosen]) / 8) for one in (px, py))  # presses to the middle of all
        keys = [("ArrowLeft" if dx < 0 else "ArrowRight", abs(dx)), ("ArrowUp" if dy < 0 else "ArrowDown", abs(dy))]
        for key, times in [*keys, ("Shift+ArrowLeft", 45), ("Shift+ArrowUp", 30)]:
            for _ in range(times):
                page.keyboard.press(key)
        page.keyboard.press("Enter")
        drawn(page, "u10/anomaly/mean")
        x1, y1 = float(px[chosen]) + 8 * dx, float(py[chosen]) + 8 * dy
        inside = int(((px > x1 - 360) & (px < x1) & (py > y1 - 240) & (py < y1)).sum())
        assert inside > 10
        assert page.inner_text("#when") == f"mean of {inside} states"
        page.keyboard.press("Escape")
        drawn(page, f"u10/anomaly/{states.rows[chosen]}")
        page.mouse.move(box["x"] + 2, box["y"] + 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 12, box["y"] + 12, steps=3)
        page.mouse.up()
        says(page, "#points-said", "No states inside")


def test_analogues_stand_side_by_side(make_look: Any, serve: Any, visit: Any) -> None:
    from earthssl.look.states import SPACES, analogues

    look = make_look()
    with serve(look) as server:
        page = visit(server.address)
        page.wait_for_selector("#points[data-drawn]")
        page.fill("#date", "1990-01-01")
        page.click("#tab-analogues")
        page.wait_for_selector('#analogues[data-drawn="108/0/sst/anomaly"]')
        page.fill("#exclude", "400")
        page.keyboard.press("Tab")
        says(page, "#analogues-said", "400 days")
        for k, space in enumerate(SPACES):
            found = analogues(look.progress.states(), look.store, 108, space, 4, 400)
            shown = page.locator(f"#analogues section:nth-child({k + 1}) strong").all_inner_texts()
            assert shown == [str(look.store.times[one.step].astype("datetime64[D]")) for one in found]
        assert colours(page, "#analogues canvas >> nth=0") > 5
        first = analogues(look.progress.states(), look.store, 108, "features", 4, 400)[0].step
        page.focus("#later")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector('#analogues[data-drawn="108/1/sst/anomaly"]')
        after = str(look.store.times[first + 1].astype("datetime64[D]"))
        assert page.locator("#analogues strong").first.inner_text() == after
        page.locator("#analogues .card").first.click()
        drawn(page, f"sst/anomaly/{first}")


def test_labels_by_keys_are_saved_undone_and_seen_in_another_tab(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    file = look.journal.folder / "labels.csv"
    with serve(look) as server:
        page = visit(server.address)
        page.click("#tab-label")
        for word in ("warm", "<i>cold</i>"):
            page.fill("#new-class", word)
            page.keyboard.press("Enter")
        page.focus("#field")
        for step, key in ((1, "1"), (2, "2"), (3, "1")):
            page.keyboard.press(".")
            drawn(page, f"sst/anomaly/{step}")
            page.keyboard.press(key)
            says(page, "#saved", f"{step} labels")
        labels = read_labels(str(file), ["label"], "classification")
        assert labels.values.tolist() == ["warm", "<i>cold</i>", "warm"]
        assert labels.times.astype(str).tolist()[0] == "1981-02-01T00:00:00"
        assert page.inner_text("#own-label") == "warm"
        other = visit(server.address)
        other.click("#tab-label")
        assert other.inner_text("#saved") == "3 labels, all saved"
        assert other.locator("#classes button").count() == 2
        page.keyboard.press("u")
        says(page, "#saved", "2 labels")
        assert len(read_labels(str(file), ["label"], "classification")) == 2
        other.evaluate("window.dispatchEvent(new Event('focus'))")
        says(other, "#saved", "2 labels")
        page.get_by_role("button", name="remove <i>cold</i> of 1981-03-01").click()
        says(page, "#saved", "1 labels")


def test_places_are_marked_by_a_click_on_the_map(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    with serve(look) as server:
        page = visit(server.address)
        page.click("#tab-label")
        page.fill("#new-class", "storm")
        page.keyboard.press("Enter")
        page.check("#mark-place")
        hover(page, *share({}, 30, -60), click=True)
        says(page, "#saved", "1 labels")
    labels = read_labels(str(look.journal.folder / "places.csv"), ["label"], "classification")
    assert labels.places is not None
    assert labels.places[0] == pytest.approx([30, 300], abs=0.5)


def test_what_to_label_next_is_proposed_until_the_head_is_scored(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    with serve(look) as server:
        page = visit(server.address)
        page.wait_for_selector("#points[data-drawn]")
        page.click("#tab-label")
        for word in ("winter", "summer"):
            page.fill("#new-class", word)
            page.keyboard.press("Enter")
        page.click("#propose")
        page.wait_for_selector("#proposals button")
        assert page.locator("#proposals button").count() == 8
        page.focus("#field")
        for k in range(8):
            month = int(page.inner_text("#when").split("-")[1])
            page.keyboard.press("2" if 4 <= month <= 9 else "1")
            says(page, "#saved", f"{k + 1} labels")
            page.wait_for_timeout(50)
        sync_api.expect(page.locator("#proposals button")).to_have_count(8)  # the next ones
        says(page, "#score", "with 8 labels")
        assert len(look.journal.current()) == 8


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
        assert hover(page, 0.5, 0.5).split()[1].endswith("E")
        assert "outside the grid" in hover(page, 0.02, 0.5)
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
        drawn(page, "sst/anomaly/0")
        assert not page.is_visible("#alert")
    visit.said[:] = [line for line in visit.said if "400" not in line]  # the browser's own line on the answer


def test_a_kill_while_labelling_loses_nothing(small_store: Path, visit: Any, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "earthssl", "look", str(small_store), "--out", str(tmp_path / "look")]

    def start() -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ})
        assert process.stdout is not None
        return process, process.stdout.readline().split()[1]

    first, address = start()
    page = visit(address)
    page.click("#tab-label")
    page.fill("#new-class", "warm")
    page.keyboard.press("Enter")
    page.focus("#field")
    page.keyboard.press("1")
    says(page, "#saved", "1 labels")
    first.kill()
    first.communicate()
    page.keyboard.press("1")
    page.wait_for_selector("#alert:not([hidden])")
    assert "does not answer" in page.inner_text("#alert")
    second, address = start()
    again = visit(address)
    again.click("#tab-label")
    assert again.inner_text("#saved") == "1 labels, all saved"
    second.send_signal(signal.SIGINT)
    second.communicate(timeout=20)
    assert second.returncode == 0
    visit.said[:] = [line for line in visit.said if "ERR_CONNECTION_REFUSED" not in line]


def test_the_exported_page_works_without_a_server(make_look: Any, visit: Any, small_run: Path, tmp_path: Path) -> None:
    from earthssl.look.export import export
    from earthssl.look.label_journal import Mark

    look = make_look()
    look.journal.add(Mark("1981-03-01T00:00:00", "warm"))
    file = export(look, small_run / "checkpoint/encoder.safetensors", tmp_path / "page.html", most=5)
    page = visit(file.as_uri())
    page.wait_for_selector("#points[data-drawn]")
    assert colours(page) > 20
    page.focus("#slider")
    page.keyboard.press("ArrowRight")
    drawn(page, "sst/anomaly/89")
    page.select_option("#variable", "u10")
    page.select_option("#kind", "value")
    drawn(page, "u10/value/89")
    meta = look.meta()
    value = look.fields.block("u10", "value", 89, 1)[0, 2, 3]
    text = hover(page, *share(meta, meta["lat"][2] - 1, meta["lon"][3] + 1))
    assert float(text.split("  ")[1].split()[0]) == pytest.approx(value, rel=1e-2)
    page.click("#as-globe")
    assert pixel(page, 0.01, 0.01)[3] == 0
    page.select_option("#colour-by", "own")
    page.wait_for_selector('#points[data-drawn^="own/"]')
    assert page.locator("#points-legend li").all_inner_texts() == ["warm"]
    assert not page.is_visible("#tab-label")
    page.focus("#points-over")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_selector("#field[data-drawn]")
