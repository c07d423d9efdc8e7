"""The page in a real browser: points, analogues, the encoder's tasks, labels; and the exported page."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from earthssl.downstream.finetune.read_labels import read_labels

MOST_S = 120  # for a process to end, on a machine under load


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
        visit.drawn(page, f"sst/anomaly/{states.rows[chosen]}")
        left, top, right, low = 60.0, 60.0, 200.0, 260.0
        page.mouse.move(box["x"] + left, box["y"] + top)
        page.mouse.down()
        page.mouse.move(box["x"] + right, box["y"] + low, steps=5)
        page.mouse.up()
        visit.drawn(page, "sst/anomaly/mean")
        inside = int(((px > left) & (px < right) & (py > top) & (py < low)).sum())
        assert page.inner_text("#when") == f"mean of {inside} states"
        page.select_option("#variable", "u10")
        visit.drawn(page, "u10/anomaly/mean")
        page.click("#end-mean")
        visit.drawn(page, f"u10/anomaly/{states.rows[chosen]}")
        page.focus("#points-over")  # the same by keys
        dx, dy = (int((np.median(one) - one[chosen]) / 8) for one in (px, py))  # presses to the middle of all
        keys = [("ArrowLeft" if dx < 0 else "ArrowRight", abs(dx)), ("ArrowUp" if dy < 0 else "ArrowDown", abs(dy))]
        for key, times in [*keys, ("Shift+ArrowLeft", 45), ("Shift+ArrowUp", 30)]:
            for _ in range(times):
                page.keyboard.press(key)
        page.keyboard.press("Enter")
        visit.drawn(page, "u10/anomaly/mean")
        x1, y1 = float(px[chosen]) + 8 * dx, float(py[chosen]) + 8 * dy
        inside = int(((px > x1 - 360) & (px < x1) & (py > y1 - 240) & (py < y1)).sum())
        assert inside > 10
        assert page.inner_text("#when") == f"mean of {inside} states"
        page.keyboard.press("Escape")
        visit.drawn(page, f"u10/anomaly/{states.rows[chosen]}")
        page.mouse.move(box["x"] + 2, box["y"] + 2)
        page.mouse.down()
        page.mouse.move(box["x"] + 12, box["y"] + 12, steps=3)
        page.mouse.up()
        visit.says(page, "#points-said", "No states inside")


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
        visit.says(page, "#analogues-said", "400 days")
        for k, space in enumerate(SPACES):
            found = analogues(look.progress.states(), look.store, 108, space, 4, 400)
            shown = page.locator(f"#analogues section:nth-child({k + 1}) button strong").all_inner_texts()
            assert shown == [str(look.store.times[one.step].astype("datetime64[D]")) for one in found]
        assert visit.colours(page, "#analogues canvas >> nth=0") > 5
        first = analogues(look.progress.states(), look.store, 108, "features", 4, 400)[0].step
        page.focus("#later")
        page.keyboard.press("ArrowRight")
        page.wait_for_selector('#analogues[data-drawn="108/1/sst/anomaly"]')
        members = analogues(look.progress.states(), look.store, 108, "features", 4, 400)
        later = np.concatenate([look.fields.block("sst", "anomaly", one.step + 1, 1) for one in members])
        truth, now = (look.fields.block("sst", "anomaly", step, 1)[0] for step in (109, 108))
        weight = np.where(np.isfinite(truth), look.store.grid.area, 0) / look.store.grid.area[np.isfinite(truth)].sum()
        error, still = (np.sqrt((weight * np.nan_to_num(gap**2)).sum()) for gap in (later.mean(0) - truth, now - truth))
        spread = np.sqrt((weight * np.nan_to_num(later.var(0, ddof=1))).sum())
        said = (
            page.inner_text("#analogues section:nth-child(1) div.card span").replace(";", " ").replace(",", " ").split()
        )
        assert [float(said[k]) for k in (1, 3, -1)] == pytest.approx([spread, error, still], rel=2e-3)
        after = str(look.store.times[first + 1].astype("datetime64[D]"))
        assert page.locator("#analogues strong").first.inner_text() == after
        page.locator("#analogues .card").first.click()
        visit.drawn(page, f"sst/anomaly/{first}")


def test_labels_by_keys_are_saved_undone_and_seen_in_another_tab(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    file = look.journal.folder / "labels.csv"
    with serve(look) as server:
        page = visit(server.address)
        visit.classes(page, "warm", "<i>cold</i>")
        page.focus("#field")
        for step, key in ((1, "2"), (2, "1"), (3, "2")):  # the second class comes first: keys keep their meaning
            page.keyboard.press(".")
            visit.drawn(page, f"sst/anomaly/{step}")
            page.keyboard.press(key)
            visit.says(page, "#saved", f"{step} labels")
        labels = read_labels(str(file), ["label"], "classification")
        assert labels.values.tolist() == ["<i>cold</i>", "warm", "<i>cold</i>"]
        assert labels.times.astype(str).tolist()[0] == "1981-02-01T00:00:00"
        assert page.inner_text("#own-label") == "<i>cold</i>"
        other = visit(server.address)
        other.click("#tab-label")
        assert other.inner_text("#saved") == "3 labels, all saved"
        assert other.locator("#classes button").count() == 2
        page.keyboard.press("u")
        visit.says(page, "#saved", "2 labels")
        assert len(read_labels(str(file), ["label"], "classification")) == 2
        other.evaluate("window.dispatchEvent(new Event('focus'))")
        visit.says(other, "#saved", "2 labels")
        page.get_by_role("button", name="remove warm of 1981-03-01").click()
        visit.says(page, "#saved", "1 labels")


def test_places_are_marked_by_a_click_on_the_map(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    with serve(look) as server:
        page = visit(server.address)
        visit.classes(page, "storm")
        page.check("#mark-place")
        visit.hover(page, *visit.share(30, -60), click=True)
        visit.says(page, "#saved", "1 labels")
    labels = read_labels(str(look.journal.folder / "places.csv"), ["label"], "classification")
    assert labels.places is not None
    assert labels.places[0] == pytest.approx([30, 300], abs=0.5)


def test_what_to_label_next_is_proposed_until_the_head_is_scored(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    with serve(look) as server:
        page = visit(server.address)
        page.wait_for_selector("#points[data-drawn]")
        visit.classes(page, "winter", "summer")
        page.click("#propose")
        page.wait_for_selector("#proposals button")
        proposed = page.locator("#proposals button").all_inner_texts()
        years = [int(day[:4]) for day in proposed]  # of the blocks: to 2000, from 2002 to 2005, from 2007
        blocks = ((1981, 2000), (2002, 2005), (2007, 2010))
        assert [sum(first <= year <= last for year in years) for first, last in blocks] == [6, 1, 1]
        page.focus("#field")
        for k in range(8):
            month = int(page.inner_text("#when").split("-")[1])
            page.keyboard.press("2" if 4 <= month <= 9 else "1")
            visit.says(page, "#saved", f"{k + 1} labels")
            page.wait_for_timeout(50)
        visit.counts(page, "#proposals button", 8)  # the next ones
        visit.says(page, "#score", "with 7 labels")  # the eighth is of test
        assert len(look.journal.current()) == 8


def test_a_kill_while_labelling_loses_nothing(started: Any, small_store: Path, visit: Any, tmp_path: Path) -> None:
    def start() -> tuple[Any, str]:
        return started(small_store, tmp_path / "look")

    first, address = start()
    page = visit(address)
    visit.classes(page, "warm")
    page.focus("#field")
    page.keyboard.press("1")
    visit.says(page, "#saved", "1 labels")
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
    second.communicate(timeout=MOST_S)
    assert second.returncode == 0
    visit.said[:] = [line for line in visit.said if "ERR_CONNECTION_REFUSED" not in line]


def test_the_exported_page_works_without_a_server(make_look: Any, visit: Any, tmp_path: Path) -> None:
    from earthssl.look.export import export
    from earthssl.look.labels.journal import Mark
    from earthssl.look.umap_layout import layout_file
    from safetensors.numpy import save_file

    look = make_look()
    look.journal.add(Mark("1981-03-01T00:00:00", "warm"))
    states = look.progress.states()
    places = np.random.default_rng(0).normal(size=(len(states.rows), 2)).astype(np.float32)
    save_file({"places": places}, layout_file(states.features, look.journal.folder))  # as the page keeps it
    file = export(look, states, tmp_path / "page.html", most=5)
    page = visit(file.as_uri())
    page.wait_for_selector("#points[data-drawn]")
    page.select_option("#layout", "umap")
    page.wait_for_selector('#points[data-layout="umap"]')
    assert visit.colours(page) > 20
    page.focus("#slider")
    page.keyboard.press("ArrowRight")
    visit.drawn(page, "sst/anomaly/89")
    page.select_option("#variable", "u10")
    page.select_option("#kind", "value")
    visit.drawn(page, "u10/value/89")
    meta = look.meta()
    value = look.fields.block("u10", "value", 89, 1)[0, 2, 3]
    text = visit.hover(page, *visit.share(meta["lat"][2] - 1, meta["lon"][3] + 1))
    assert float(text.split("  ")[1].split()[0]) == pytest.approx(value, rel=1e-2)
    page.click("#as-globe")
    assert visit.pixel(page, 0.01, 0.01)[3] == 0
    page.select_option("#colour-by", "own")
    page.wait_for_selector('#points[data-drawn^="own/"]')
    assert page.locator("#points-legend li").all_inner_texts() == ["warm"]
    assert not page.is_visible("#tab-label")
    page.focus("#points-over")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    page.wait_for_selector("#field[data-drawn]")


def test_the_encoders_task_is_shown_and_masks_are_redrawn(make_look: Any, serve: Any, visit: Any) -> None:
    look = make_look()
    with serve(look) as server:
        page = visit(server.address)
        page.click("#tab-encoder")
        visit.says(page, "#encoder-said", "does not fit")
        page.fill("#date", "1990-01-01")
        page.wait_for_selector('#rebuilt[data-drawn="masking/sst/108/0"]')
        found = look.decoders.show("masking", "sst", 108, 0)
        visit.says(page, "#encoder-said", f"{found.rms:.4g} K")
        before = page.eval_on_selector("#rebuilt canvas >> nth=1", "canvas => canvas.toDataURL()")
        page.click("#redraw")
        page.wait_for_selector('#rebuilt[data-drawn="masking/sst/108/1"]')
        assert page.eval_on_selector("#rebuilt canvas >> nth=1", "canvas => canvas.toDataURL()") != before
        page.select_option("#variable", "u10")
        page.wait_for_selector('#rebuilt[data-drawn="masking/u10/108/1"]')
        assert not page.is_visible("#lead")


@pytest.mark.slow
def test_forecasts_are_shown_at_the_leads_of_the_pretext_task(
    make_look: Any, serve: Any, visit: Any, small_pretrain: Any, tmp_path: Path
) -> None:
    from earthssl.look.rebuilt import Decoders
    from earthssl.pretext import TASKS
    from earthssl.ssl.inference.load import load_encoder
    from earthssl.ssl.training.pretrain import load_objectives

    look = make_look()
    run = small_pretrain(tmp_path / "run", {"lead_time": {"leads": [1, 3], "residual": True}}).parent

    def load() -> tuple[Any, Any]:
        encoder, objectives = load_objectives(run / "checkpoint", TASKS)
        return encoder, objectives.tasks()

    look.decoders = Decoders(load, load_encoder(run).record, look.store)
    with serve(look) as server:
        page = visit(server.address)
        page.fill("#date", "1990-01-01")
        page.click("#tab-encoder")
        page.wait_for_selector('#rebuilt[data-drawn="lead_time/sst/108/1"]')
        assert not page.is_visible("#redraw")
        page.select_option("#lead", "3")
        page.wait_for_selector('#rebuilt[data-drawn="lead_time/sst/108/3"]')
        titles = page.locator("#rebuilt h3").all_inner_texts()
        assert titles == ["Truth, 1990-04-01", "Seen last, 1990-01-01", "Forecast of 1990-04-01", "Error"]
        visit.says(page, "#encoder-said", f"{look.decoders.show('lead_time', 'sst', 108, 0, 3).rms:.4g} K")
