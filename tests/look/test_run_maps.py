"""Maps that a run left: which are listed, what is read of them, what is refused; and on the page."""

from __future__ import annotations

import json
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.cli.look import _checkpoint_of, _opened
from earthssl.cli.main import main
from earthssl.look.labels.journal import Journal, Mark
from earthssl.look.run_maps import RunMaps
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.store.store import Store


def written(folder: Path, grid: LatLonGrid) -> np.ndarray:
    """Write attributions as `explain` does, and others that are none, and return the attributions."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, 3, *grid.shape)).astype(np.float32)
    values[:, :, 2, 3] = np.nan
    coords = {"method": ["gradients", "<b>lime</b>"], "lag": [-2, -1, 0], "lat": grid.lat, "lon": grid.lon}
    data = xr.Dataset(
        {
            "attribution": (("method", "lag", "lat", "lon"), values, {"units": "K per cell", "long_name": "mean"}),
            "area": (("lat", "lon"), grid.area),
            "share": (("method",), [0.2, 0.8]),
        },
        coords,
    )
    (folder / "probe").mkdir(parents=True)
    data.to_netcdf(folder / "probe" / "maps.nc")
    turned = data[["area"]].assign_coords(lon=(grid.lon + 180) % 360 - 180).sortby("lat").sortby("lon")
    turned.to_netcdf(folder / "turned.nc")  # south first, from -180°
    data.isel(lon=slice(0, 4)).to_netcdf(folder / "other_grid.nc")
    data[["attribution"]].isel(lag=slice(0)).to_netcdf(folder / "empty.nc")
    (folder / "broken.nc").write_bytes(b"no NetCDF")
    return values


def test_maps_on_the_grid_are_listed_and_read(small_store: Path, tmp_path: Path) -> None:
    grid = Store(small_store).grid
    values = written(tmp_path / "run", grid)
    maps = RunMaps(tmp_path / "run", grid)
    listed = maps.describe()
    assert [one["title"] for one in listed] == ["probe/maps.nc: attribution", "probe/maps.nc: area", "turned.nc: area"]
    assert listed[0]["units"] == "K per cell"
    assert listed[0]["choices"] == [
        {"name": "method", "members": ["gradients", "<b>lime</b>"]},
        {"name": "lag", "members": ["-2", "-1", "0"]},
    ]
    np.testing.assert_array_equal(maps.read(0, [1, 2]), values[1, 2])
    np.testing.assert_allclose(maps.read(2, []), grid.area, rtol=1e-6)
    for number, at in ((3, []), (-1, []), (0, [1]), (0, [2, 0]), (0, [0, -1]), (0, [0, 0, 0])):
        with pytest.raises(EarthSSLError, match=r"(map|at): expected"):
            maps.read(number, at)
    (tmp_path / "run" / "turned.nc").unlink()
    with pytest.raises(EarthSSLError, match="cannot be read any more"):
        maps.read(2, [])


def test_maps_are_not_read_while_masks_are_written(
    small_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two threads in NetCDF's library at once end the process."""
    grid = Store(small_store).grid
    written(tmp_path / "run", grid)
    maps, journal = RunMaps(tmp_path / "run", grid), Journal(tmp_path / "look", grid)
    inside, calls = threading.Lock(), list[str]()

    def alone(work: Callable[..., Any]) -> Callable[..., Any]:
        def slow(*given: Any, **named: Any) -> Any:
            if not inside.acquire(blocking=False):
                raise RuntimeError("two threads at once")
            try:
                time.sleep(0.03)
                calls.append(work.__name__)
                return work(*given, **named)
            finally:
                inside.release()

        return slow

    monkeypatch.setattr(xr, "open_dataset", alone(xr.open_dataset))
    monkeypatch.setattr(xr.Dataset, "to_netcdf", alone(xr.Dataset.to_netcdf))
    corners = ((40.0, 160.0), (40.0, 210.0), (75.0, 210.0), (75.0, 160.0))
    threads = [
        threading.Thread(target=lambda: [maps.read(1, []) for _ in range(8)]),
        threading.Thread(
            target=lambda: [journal.add(Mark("1981-01-01T00:00:00", f"c{k}", outline=corners)) for k in range(8)]
        ),
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(calls) == ["open_dataset"] * 8 + ["to_netcdf"] * 8


def test_a_folder_without_maps_is_refused(small_store: Path, tmp_path: Path) -> None:
    grid = Store(small_store).grid
    with pytest.raises(EarthSSLError, match="found none"):
        RunMaps(tmp_path / "none", grid)
    (tmp_path / "broken.nc").write_bytes(b"no NetCDF")
    with pytest.raises(EarthSSLError, match="maps on the store's grid"):
        RunMaps(tmp_path, grid)


def test_a_run_beside_a_checkpoint_is_a_folder(small_store: Path, small_run: Path, tmp_path: Path,
                                               capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    command = ["look", str(small_store), "--checkpoint", str(small_run), "--out", str(tmp_path / "look"), "--export",
               str(tmp_path / "page.html"), "--steps", "1", "--run"]  # fmt: skip
    assert main([*command, str(tmp_path / "mistyped")]) == 2
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1
    assert "mistyped: expected the folder of a run" in said[0]
    grid = LatLonGrid(np.linspace(90, -90, 7), np.arange(0, 360, 60.0))
    written(tmp_path / "run", grid)
    opened, weights = _opened(  # what is asked of the page, without the features
        Namespace(labels=None, run=str(tmp_path / "run"), checkpoint=str(small_run)), Store(small_store),
        Journal(tmp_path / "own"),
    )  # fmt: skip
    assert weights is not None
    assert opened.maps is None
    assert "no maps are shown: " in (said := capsys.readouterr().err)
    assert "maps on the store's grid" in said


def test_the_checkpoint_of_a_run_is_that_of_its_first_seed(small_run: Path, tmp_path: Path) -> None:
    assert _checkpoint_of(small_run) == str(small_run)
    for seed in (1, 0):
        (tmp_path / f"pretrain-seed{seed}" / "checkpoint").mkdir(parents=True)
    assert _checkpoint_of(tmp_path) == str(tmp_path / "pretrain-seed0")
    assert _checkpoint_of(tmp_path / "none") is None


def test_the_page_is_told_of_maps_only_where_there_are(make_look: Callable[..., Any], small_store: Path,
                                                      tmp_path: Path) -> None:  # fmt: skip
    look = make_look(store=small_store)
    assert look.meta()["maps"] is False
    assert look.get("api/maps", {}) is None
    assert look.get("api/map", {"number": "0"}) is None
    values = written(tmp_path / "run", look.store.grid)
    look.maps = RunMaps(tmp_path / "run", look.store.grid)
    assert len(json.loads(look.get("api/maps", {}).body)) == 3
    field = np.frombuffer(look.get("api/map", {"number": "0", "at": "1,0"}).body, "<f4")
    np.testing.assert_array_equal(field, values[1, 0].ravel())
    for query in ({"number": "x"}, {"number": "0", "at": "1,x"}, {"number": "0", "at": "../.."}, {"number": "9"}, {}):
        with pytest.raises(EarthSSLError, match=r"(number|map|at): expected"):
            look.get("api/map", query)


def test_maps_of_a_run_are_chosen_on_the_page(make_look: Any, serve: Any, visit: Any, small_store: Path,
                                              tmp_path: Path) -> None:  # fmt: skip
    look = make_look(store=small_store)
    written(tmp_path / "run", look.store.grid)
    look.maps = RunMaps(tmp_path / "run", look.store.grid)
    with serve(look) as server:
        page = visit(server.address)
        page.click("#tab-maps")
        page.wait_for_selector('#run-map[data-drawn="0/0,0"]')
        assert visit.colours(page, "#run-map") > 20
        before = page.eval_on_selector("#run-map", "canvas => canvas.toDataURL()")
        page.get_by_label("method").select_option(label="<b>lime</b>")
        page.wait_for_selector('#run-map[data-drawn="0/1,0"]')
        assert page.eval_on_selector("#run-map", "canvas => canvas.toDataURL()") != before
        assert page.get_attribute("#run-map", "aria-label") == "Map of probe/maps.nc: attribution, <b>lime</b>, -2"
        assert "K per cell" in page.inner_text("#map-said")
        page.select_option("#map-of", label="turned.nc: area")
        page.wait_for_selector('#run-map[data-drawn="2/"]')
        assert page.locator("#map-choices select").count() == 0
