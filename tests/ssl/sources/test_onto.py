"""Fields brought to another grid: conservation, brute force, edges of the sphere, missing cells, refusals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.sources.canonical import canonicalise
from earthssl.ssl.sources.regrid import grid_of, onto


def on(lat: np.ndarray, lon: np.ndarray, seed: int = 0) -> xr.Dataset:
    """Two steps of random sst at these centres."""
    values = 280 + np.random.default_rng(seed).normal(size=(2, len(lat), len(lon)))
    times = np.array(["2000-01-01", "2000-02-01"], "datetime64[ns]")
    arrays = {"sst": (("time", "lat", "lon"), values.astype(np.float32), {"units": "K"})}
    return xr.Dataset(arrays, {"time": times, "lat": lat, "lon": lon})


def globe(step: float, offset: float = 0.0) -> xr.Dataset:
    """A whole globe with cells of `step` degrees, the first centred at `offset`°E."""
    return on(np.arange(90 - step / 2, -90, -step), np.arange(0, 360, step) + offset)


def with_pole_rows(step: float) -> LatLonGrid:
    """A whole globe whose first and last rows are caps about the poles."""
    return LatLonGrid(np.arange(90, -90.1, -step), np.arange(0, 360, step))


FIVE = LatLonGrid(np.arange(87.5, -90, -5), np.arange(2.5, 360, 5))


@pytest.mark.parametrize("source", [globe(2.0), globe(2.0, 1.0), globe(5.0), globe(1.5)])
@pytest.mark.parametrize("target", [FIVE, with_pole_rows(5.0), with_pole_rows(7.5)], ids=str)
def test_the_integral_over_the_globe_stays(source: xr.Dataset, target: LatLonGrid) -> None:
    """Finer and shifted grids, with caps at the poles and across 0°E: nothing is lost or counted twice."""
    made, said = onto(source, target, "x")
    assert "brought from" in said
    area = LatLonGrid(source["lat"].values, source["lon"].values).area
    before, after = (source["sst"].values * area).sum((1, 2)), (made["sst"].values * target.area).sum((1, 2))
    np.testing.assert_allclose(after, before, rtol=1e-6)
    assert made["sst"].dtype == np.float32
    assert made["sst"].attrs["units"] == "K"
    constant = source.copy(data={"sst": np.full_like(source["sst"].values, 281.25)})
    np.testing.assert_array_equal(onto(constant, target, "x")[0]["sst"].values, np.float32(281.25))


def test_a_shift_by_half_a_cell_by_brute_force() -> None:
    """Both axes shifted: each cell is the mean of four quarters, as a 0.5° sampling weighs them."""
    source = globe(5.0)  # rows at 87.5, columns at 0
    target = with_pole_rows(5.0)  # rows at 90 and 85, columns at 0
    target = LatLonGrid(target.lat, target.lon + 2.5)
    made = onto(source, target, "x")[0]["sst"].values[0]
    lat, lon = 90 - (np.arange(360) + 0.5) / 2, (np.arange(720) + 0.5) / 2
    row, column = ((90 - lat) // 5).astype(int), ((lon + 2.5) // 5).astype(int) % 72
    fine = source["sst"].values[0].astype(float)[row[:, None], column[None]]
    weight = np.broadcast_to((np.sin(np.deg2rad(lat + 0.25)) - np.sin(np.deg2rad(lat - 0.25)))[:, None], fine.shape)
    to_row, to_column = ((92.5 - lat) // 5).astype(int), (lon // 5).astype(int)
    where = (to_row[:, None] * 72 + to_column[None]).ravel()
    sums = [np.bincount(where, w.ravel(), 37 * 72) for w in (fine * weight, weight)]
    np.testing.assert_allclose(made, (sums[0] / sums[1]).reshape(37, 72), rtol=2e-7)
    four = source["sst"].values[0, 17:19, 0:2]  # about the equator: the areas of the quarters are equal by symmetry
    assert made[18, 0] == pytest.approx(four.mean(), rel=1e-7)


def test_the_same_grid_is_left_alone() -> None:
    """Not a bit changes; what differs by rounding alone is the same."""
    source = globe(5.0, 2.5)
    made, said = onto(source, FIVE, "x")
    assert made is source
    assert said == ""
    noisy = source.assign_coords(lat=source["lat"] + 1e-6)
    assert onto(noisy, FIVE, "x")[0] is noisy


def test_cells_of_a_larger_region_are_taken_as_they_are() -> None:
    """The tropics out of a globe: bit for bit, on the axes of the target."""
    region = LatLonGrid(FIVE.lat[12:24], FIVE.lon[30:50])
    source = globe(5.0, 2.5)
    made, said = onto(source, region, "x")
    assert "were taken out of" in said
    np.testing.assert_array_equal(made["sst"].values, source["sst"].values[:, 12:24, 30:50])
    np.testing.assert_array_equal(made["lat"].values, region.lat)


def test_orientation_of_the_source_does_not_matter() -> None:
    """South to north and −180…180, as files have them."""
    source = globe(2.0)
    turned = source.assign_coords(lon=(source["lon"] + 180) % 360 - 180).sortby("lon").isel(lat=slice(None, None, -1))
    assert turned["lon"].values[0] == -180
    assert turned["lat"].values[0] < 0
    a, b = (onto(canonicalise(ds), FIVE, "x")[0] for ds in (source, turned))
    xr.testing.assert_identical(a, b)


def test_missing_cells_follow_the_share_of_area() -> None:
    """A quarter, a half and three quarters of a cell; what counts is the whole cell's area, not what the data reach."""
    source = globe(2.5, 1.25)
    source["sst"][:] = 281.5
    source["sst"][:, 0:2, 0:2] = np.nan  # all of cell 0, 0
    source["sst"][:, 2:4, 2] = np.nan  # the western half of cell 1, 1
    source["sst"][:, 4:6, 4] = np.nan  # three quarters of cell 2, 2, and a bit
    source["sst"][:, 5, 5] = np.nan

    def missing(share: float) -> list[list[int]]:
        values = onto(source, FIVE, "x", share)[0]["sst"].values
        np.testing.assert_array_equal(values[np.isfinite(values)], np.float32(281.5))
        return [list(map(int, one)) for one in np.argwhere(np.isnan(values[0]))]

    assert missing(0.5) == [[0, 0], [2, 2]]
    assert missing(0.2) == [[0, 0]]
    assert missing(1.0) == [[0, 0], [1, 1], [2, 2]]
    south = globe(2.5, 1.25).isel(lat=slice(1, None))  # the first cells are covered over three quarters of their area
    assert np.isfinite(onto(south, FIVE, "x", 0.7)[0]["sst"].values).all()
    made = onto(south, FIVE, "x", 0.8)[0]["sst"].values
    assert np.isnan(made[:, 0]).all()
    assert np.isfinite(made[:, 1:]).all()


def test_lazy_data_stay_lazy() -> None:
    """Chunks in time, the same numbers."""
    source = globe(2.0)
    made, _ = onto(source.chunk(time=1), FIVE, "x")
    assert made["sst"].chunks is not None
    xr.testing.assert_equal(made.compute(), onto(source, FIVE, "x")[0])


def test_larger_cells_are_refused() -> None:
    """Along either axis, with the reason and what to do; a hundredth is rounding of Gaussian rows."""
    with pytest.raises(EarthSSLError, match=r"no larger than those of the checkpoint \(5°×5°\), got 6°×6°.*finer grid"):
        onto(globe(6.0), FIVE, "x")
    with pytest.raises(EarthSSLError, match=r"got 2°×10°"):
        onto(on(np.arange(89.0, -90, -2), np.arange(5.0, 360, 10)), FIVE, "x")
    nearly = LatLonGrid(np.arange(33.0, -34, -4.95), np.arange(2.5, 360, 5))
    assert onto(globe(5.0), nearly, "x")[1]


def test_a_region_that_does_not_cover_is_refused() -> None:
    """Names what lacks; rows and columns where nothing is needed may lack."""
    tropics = globe(2.0).isel(lat=slice(30, 60))  # 30°S to 30°N
    with pytest.raises(EarthSSLError, match=r"24 of 36 latitudes \(-87\.5…87\.5°\); take data of all of it"):
        onto(tropics, FIVE, "x")
    west = tropics.isel(lon=slice(0, 90))  # to 179°E
    needed = np.zeros(FIVE.shape, bool)
    needed[12:24, 10:40] = True
    with pytest.raises(EarthSSLError, match=r"4 of 72 longitudes \(182\.5…197\.5°\); take"):
        onto(west, FIVE, "x", needed=needed)
    needed[:, 35:] = False
    made, _ = onto(west, FIVE, "x", needed=needed)
    assert np.isfinite(made["sst"].values[:, 12:24, 10:35]).all()
    assert np.isnan(made["sst"].values[:, :11]).all()


@pytest.mark.parametrize("share", ["x", 0, 1.5, None, True, np.nan])
def test_a_share_that_is_none(share: object) -> None:
    """Is refused, on the grid itself too."""
    with pytest.raises(EarthSSLError, match=r"least_valid: expected a share in \(0, 1\], got"):
        onto(globe(5.0, 2.5), FIVE, "x", share)  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 72), (36, 1)])
def test_one_row_or_column_has_no_size(shape: tuple[int, int]) -> None:
    """And is refused in a sentence."""
    one = globe(5.0, 2.5).isel(lat=slice(0, shape[0]), lon=slice(0, shape[1]))
    with pytest.raises(EarthSSLError, match=rf"x: expected fields of at least 2×2 cells.*got {shape[0]}×{shape[1]}"):
        onto(one, FIVE, "x")


@pytest.mark.parametrize(
    "text",
    [
        "[1, 2]", '{"grid": [1]}', '{"grid": {"lat": ["a", "b"], "lon": [0, 1]}}',
        '{"grid": {"lat": [1], "lon": [0, 1]}}',
        '{"grid": {"lat": [2, 1], "lon": 5}}', '{"grid": {"lat": [[2], [1]], "lon": [0, 1]}}',
        '{"grid": {"lat": [1e999, 1], "lon": [0, 1]}}',
    ],
)  # fmt: skip
def test_a_file_without_a_grid(text: str, tmp_path: Path) -> None:
    """Lists of other things, one cell, no numbers."""
    (tmp_path / "a.json").write_text(text, encoding="utf-8")
    with pytest.raises(EarthSSLError, match=r"option grid: expected .* at least two degrees each, found none"):
        grid_of(str(tmp_path / "a.json"))
    (tmp_path / "a.json").write_text('{"grid": {"lat": [2, 1.5], "lon": [0, 1]}}', encoding="utf-8")
    assert grid_of(str(tmp_path / "a.json")).shape == (2, 2)
