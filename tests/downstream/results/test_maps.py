"""Maps behind a picture: kept as they are, packed for a page, coarser where cells are many, drawn by one script."""

from __future__ import annotations

import base64
import html.parser
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr
from earthssl.downstream.report.read_summary import read_summary
from earthssl.downstream.results.assets import GLOBES, globe_script, joined, shared_files
from earthssl.downstream.results.figures import map_figure
from earthssl.downstream.results.maps import MOST_BYTES, MapFigure, Maps
from earthssl.downstream.results.page import LOOK_PLACE, link_look, page
from earthssl.downstream.results.summary import DIFFERENCES, MAPS_OF, SCORES, Summary
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from matplotlib.figure import Figure

GRID = LatLonGrid(np.linspace(75, -75, 6), np.arange(0, 360, 45.0))
NASTY = "</script><script>alert(1)</script>"


def summary(figures: dict[str, Figure] | None = None) -> Summary:
    scores = pd.DataFrame([("a", "", "t", "r", 0.5, 0.4, 0.6)], columns=list(SCORES))
    none = pd.DataFrame([], columns=list(DIFFERENCES))
    return Summary("test", "A test", "none", scores, none, {}, figures=figures or {})


def drawn(count: int = 2) -> MapFigure:
    rng = np.random.default_rng(0)
    fields = {f"map {k}": rng.normal(size=GRID.shape) for k in range(count - 1)} | {NASTY: rng.normal(size=GRID.shape)}
    fields[NASTY][2, 3] = np.nan
    figure = MapFigure(figsize=(1, 1))
    figure.maps = Maps.of(fields, GRID, (-2, 2), "K")
    return figure


def decoded(record: dict, shape: tuple[int, int]) -> np.ndarray:
    codes = np.frombuffer(base64.b64decode(record["data"]), "<i2").reshape(shape)
    return np.where(codes == -32768, np.nan, record["offset"] + record["scale"] * codes)


def test_maps_come_back_from_the_file_and_from_the_page(tmp_path: Path) -> None:
    figure = drawn()
    own = figure.maps
    assert own is not None
    folder = summary(figures={"one": figure}).write(tmp_path / "out")
    back = read_summary(folder).mapped()["one"]
    assert list(back.fields) == ["map 0", NASTY]
    for name, field in own.fields.items():
        np.testing.assert_allclose(back.fields[name], field, rtol=1e-6)
    assert back.ends.tolist() == [[-2, 2], [-2, 2]]
    assert list(back.units) == ["K", "K"]
    assert back.whole
    record = json.loads(str(back.json()))
    assert [record["meta"][name] for name in ("rows", "columns", "periodic")] == [6, 8, True]
    assert record["meta"]["lat_bounds"] == GRID.lat_bounds.tolist()
    for one, field in zip(record["maps"], own.fields.values(), strict=True):
        np.testing.assert_allclose(decoded(one, GRID.shape), field, atol=one["scale"])
        assert (one["low"], one["high"], one["units"]) == (-2, 2, "K")
    text = (folder / "report.html").read_text()
    assert str(back.json()) in text


def test_a_picture_of_maps_remembers_them() -> None:
    field = np.arange(48.0).reshape(GRID.shape)
    own = map_figure({"a": field, "b": -field}, GRID, 2.0, "sst anomaly (K)", "One month", "K").maps
    assert own is not None
    assert own.fields["b"].tolist() == (-field).tolist()
    assert (own.ends.tolist(), list(own.units), own.grid) == ([[-2, 2], [-2, 2]], ["K", "K"], GRID)


def test_too_many_cells_become_means_of_some() -> None:
    """A grid of 1° has 2×2 means; of cells that are missing the others' mean; its bounds are those of the blocks."""
    grid = LatLonGrid(np.arange(89.5, -90, -1), np.arange(0.5, 360))
    field = np.add.outer(grid.lat, grid.lon)
    field[0, 0] = field[40:42, 60:62] = np.nan
    record = json.loads(str(Maps.of({"a": field}, grid, (0, 1), "").json()))
    assert (record["by"], record["meta"]["rows"], record["meta"]["columns"]) == (2, 90, 180)
    values = decoded(record["maps"][0], (90, 180))
    assert values[1, 1] == pytest.approx(87 + 3, abs=0.01)
    assert values[0, 0] == pytest.approx((field[0, 1] + field[1, 0] + field[1, 1]) / 3, abs=0.01)
    assert np.isnan(values[20, 30])
    assert record["meta"]["lat_bounds"][:2] == [90, 88]
    assert record["meta"]["lon_bounds"][-2:] == [358, 360]
    many = Maps.of({str(k): field for k in range(150)}, grid, (0, 1), "")
    assert len(many.json()) < 1.1 * MOST_BYTES
    odd = LatLonGrid(np.linspace(89, -89, 179), np.arange(0, 360, 1.0))  # the last block of rows is a row
    record = json.loads(str(Maps.of({"a": np.ones(odd.shape)}, odd, (0, 1), "").json()))
    assert len(record["meta"]["lat_bounds"]) == record["meta"]["rows"] + 1 == 91


def test_of_too_many_cells_of_classes_one_each_is_shown(tmp_path: Path) -> None:
    """Classes 0 and 2 side by side have no class 1 between them, on the page and after a way through the file."""
    grid = LatLonGrid(np.arange(89.5, -90, -1), np.arange(0.5, 360))
    field = np.random.default_rng(0).choice([0.0, 2.0, np.nan], grid.shape)
    figure = map_figure({"truth": field}, grid, 2, "class", "One date", "class", shares=True, classes=True)
    folder = summary(figures={"one": figure}).write(tmp_path / "out")
    record = json.loads(str(read_summary(folder).mapped()["one"].json()))
    assert (record["by"], record["classes"]) == (2, True)
    np.testing.assert_allclose(decoded(record["maps"][0], (90, 180)), field[::2, ::2], atol=1e-4)
    plain = json.loads(str(Maps.of({"truth": field}, grid, (0, 2), "").json()))
    assert not plain["classes"]
    assert "record.classes ? ` One of" in globe_script()


def test_names_cannot_break_out_and_one_script_is_let_run(tmp_path: Path) -> None:
    text = (summary(figures={"one": drawn()}).write(tmp_path / "out") / "report.html").read_text()

    class Scripts(html.parser.HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.kinds: list[str | None] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag == "script":
                self.kinds.append(dict(attrs).get("type"))

    found = Scripts()
    found.feed(text)
    assert found.kinds == ["application/json", "application/json", "module"]
    assert globe_script() in text
    without = summary().write(tmp_path / "plain") / "report.html"
    assert "<script" not in without.read_text()
    assert "script-src 'none'" in without.read_text()


def test_the_picture_steps_back_only_where_globes_show_all_of_it(tmp_path: Path) -> None:
    for count, whole in ((3, True), (4, False)):
        text = (summary(figures={"one": drawn(count)}).write(tmp_path / str(count)) / "report.html").read_text()
        assert ('class="scroll still whole"' in text) == whole
        assert "data:image/png;base64," in text  # for print


def test_the_script_is_whole_and_gives_no_name_twice() -> None:
    script = globe_script()
    assert not re.search(r"^(import|export) ", script, re.M)
    names = re.findall(r"^(?:const|let|class|function) (\w+)", script, re.M)
    assert len(names) == len(set(names))
    assert "globes" in GLOBES
    assert "globes.js" not in shared_files()
    with pytest.raises(KeyError):
        joined(shared_files(), ["globes"])


def test_the_link_to_look_is_put_in_once_and_only_where_there_is_room(tmp_path: Path) -> None:
    report = tmp_path / "report.html"
    report.write_text(page([], look="earthssl look store", title="A"))
    assert report.read_text().count(LOOK_PLACE) == 1
    assert not link_look(report, 'x"><script>')
    assert link_look(report, "probe/look.html")
    assert '<a href="probe/look.html">Open in look</a>' in report.read_text()
    assert not link_look(report, "probe/look.html")


def test_a_file_of_other_content_is_refused(tmp_path: Path) -> None:
    folder = summary(figures={"one": drawn()}).write(tmp_path / "out")
    xr.Dataset({"x": ("y", [1.0])}).to_netcdf(folder / "other.nc")
    (folder / "other.nc").replace(folder / f"{MAPS_OF}one.nc")
    with pytest.raises(EarthSSLError, match="expected the maps of a picture"):
        read_summary(folder)
