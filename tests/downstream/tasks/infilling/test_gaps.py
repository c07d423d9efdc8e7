"""Gaps: functions of (seed, index), exact counts, shapes that mean what they are called."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from earthssl.downstream.tasks.infilling.gaps import KINDS, GapConfig, Gaps, in_box, read_mask
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid

GRID = LatLonGrid(np.arange(87.5, -90, -5), np.arange(2.5, 360, 5))
OCEAN = np.ones(GRID.shape, bool)
OCEAN[10:20, 20:40] = False
DRAWN = [kind for kind in KINDS if kind != "file"]


def masks(config: GapConfig, count: int, known: np.ndarray = OCEAN) -> np.ndarray:
    gaps = Gaps(config, GRID, known)
    return np.stack([gaps.observed(index) for index in range(count)])


@pytest.mark.parametrize("kind", DRAWN)
def test_a_mask_is_a_function_of_seed_and_index(kind: str) -> None:
    """Asked again, in whatever order, it is the same; other indices and other seeds give others."""
    config = GapConfig(kind, observed=0.4)
    first = masks(config, 5)
    gaps = Gaps(config, GRID, OCEAN)
    for index in (3, 0, 3):
        assert np.array_equal(gaps.observed(index), first[index])
    assert all(not np.array_equal(first[0], other) for other in first[1:])
    assert not np.array_equal(first[0], Gaps(GapConfig(kind, observed=0.4, seed=1), GRID, OCEAN).observed(0))
    assert not (first & ~OCEAN).any()


@pytest.mark.parametrize("kind", DRAWN)
def test_fixed_gaps_stay(kind: str) -> None:
    """One mask for all times."""
    found = masks(GapConfig(kind, fixed=True), 4)
    assert (found == found[0]).all()


@pytest.mark.parametrize("kind", ["random", "swath", "cloud"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_the_share_is_exact(kind: str, share: float) -> None:
    """To the rounding of one cell, of the known cells."""
    counts = masks(GapConfig(kind, observed=share), 5).sum((1, 2))
    assert (counts == round(share * OCEAN.sum())).all()


def test_random_gaps_favour_no_cell() -> None:
    """2000 draws of 30 %: each cell is observed in 30 % of them, to five standard errors."""
    found = masks(GapConfig("random", observed=0.3), 2000).mean(0)[OCEAN]
    assert abs(found - 0.3).max() < 5 * (0.3 * 0.7 / 2000) ** 0.5


def test_stations_belong_to_a_network() -> None:
    """So many report each time; all of them out of twice as many cells; chosen by area, not by rows."""
    found = masks(GapConfig("stations", stations=40), 60)
    assert (found.sum((1, 2)) == 40).all()
    assert found.any(0).sum() == 80
    dense = masks(GapConfig("stations", stations=1000, fixed=True), 1)[0]
    poleward, equatorward = dense[:3].sum(), dense[20:23].sum()
    assert poleward < 0.5 * equatorward


def test_a_swath_lies_along_tracks() -> None:
    """Three great circles cross the equator six times: six strips, slanted."""
    seen = masks(GapConfig("swath", observed=0.35, tracks=3), 1, np.ones(GRID.shape, bool))[0]
    for row in (14, 18, 22):
        runs = np.append(seen[row], seen[row, 0]).astype(int)
        assert (np.diff(runs) == 1).sum() == 6
    assert not np.array_equal(seen[10], seen[26])


def test_clouds_are_blobs() -> None:
    """Neighbours share their fate far more often than in random gaps, the more the larger the blobs."""

    def agreement(config: GapConfig) -> float:
        found = masks(config, 20, np.ones(GRID.shape, bool))[:, 8:28]
        return float((found == np.roll(found, 1, 2)).mean())

    small, large = (agreement(GapConfig("cloud", observed=0.5, blob_km=size)) for size in (800.0, 3000.0))
    assert agreement(GapConfig("random", observed=0.5)) < 0.55 < small < large
    assert large > 0.9


def test_blocks_are_boxes_that_wrap() -> None:
    """Four boxes of 6×12 cells that do not touch one another's cells; over many draws one crosses 0°E."""
    config = GapConfig("block", boxes=4, box=(30.0, 60.0))
    hidden = ~masks(config, 30, np.ones(GRID.shape, bool))
    # A box of 30° holds 6 rows, near a pole fewer (centres are even by area over the globe).
    assert hidden.sum((1, 2)).max() == 4 * 6 * 12
    assert hidden.sum((1, 2)).min() >= 4 * 3 * 12
    assert (hidden[:, :, 0] & hidden[:, :, -1]).any()
    box = in_box(GRID, 0.0, 5.0, 30.0, 60.0)
    assert box.sum() == 72
    assert box[18, [0, 6, 67, 71]].all()
    assert not box[18, [7, 66]].any()


def test_blocks_lie_over_known_cells() -> None:
    """At least half of each is ocean, by area."""
    half = np.zeros(GRID.shape, bool)
    half[:, :36] = True
    for seen in masks(GapConfig("block", boxes=2), 10, half):
        area = (GRID.area * (half & ~seen)).sum()
        assert area >= 0.5 * 0.9 * 2 * 60 / 360 * np.sin(np.deg2rad(15)) * 0.3
    with pytest.raises(EarthSSLError, match="room for 30 boxes"):
        Gaps(GapConfig("block", boxes=30), GRID, OCEAN).observed(0)


def mask_file(path: Path, grid: LatLonGrid = GRID) -> np.ndarray:
    """Write two months of a field, stored south to north, and return where the second holds a value."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(2, *grid.shape)).astype(np.float32)
    values[rng.random(values.shape) < 0.7] = np.nan
    times = np.array(["1877-09-16", "1893-08-16"], "datetime64[ns]")
    arrays = {"tas": (("time", "lat", "lon"), values[:, ::-1])}
    xr.Dataset(arrays, {"time": times, "lat": grid.lat[::-1], "lon": grid.lon}).to_netcdf(path)
    return np.isfinite(values[1])


def test_a_real_month_is_read_as_it_is(tmp_path: Path) -> None:
    """Turned north to south, the month asked for, on the rows of a smaller grid too, the same at all times."""
    truth = mask_file(tmp_path / "mask.nc")
    assert np.array_equal(read_mask(tmp_path / "mask.nc", "1893-08", GRID), truth)
    band = LatLonGrid(GRID.lat[4:32], GRID.lon)
    config = GapConfig("file", path=str(tmp_path / "mask.nc"), month="1893-08")
    gaps = Gaps(config, band, OCEAN[4:32])
    assert np.array_equal(gaps.observed(0), truth[4:32] & OCEAN[4:32])
    assert np.array_equal(gaps.observed(7), gaps.observed(0))


@pytest.mark.parametrize(
    ("month", "grid", "match"),
    [
        ("1900-01", GRID, "expected the month 1900-01 once"),
        ("soon", GRID, "expected a month such as 1877-09"),
        ("1893-08", LatLonGrid(np.arange(88.0, -90, -4), np.arange(2.0, 360, 4)), "option resolution of prepare"),
    ],
)
def test_masks_that_do_not_fit_are_refused(month: str, grid: LatLonGrid, match: str, tmp_path: Path) -> None:
    """Another month, another grid: the error says what there is."""
    mask_file(tmp_path / "mask.nc")
    with pytest.raises(EarthSSLError, match=match):
        read_mask(tmp_path / "mask.nc", month, grid)


@pytest.mark.parametrize(
    ("mark", "attrs", "refused"),
    [(-999.0, {}, True), (32767.0, {}, True), (1e20, {}, False), (-999.0, {"valid_min": np.float32(-90)}, False)],
)
def test_marks_of_nothing_are_no_observations(
    mark: float, attrs: dict[str, np.float32], refused: bool, tmp_path: Path
) -> None:
    """Undeclared ones are refused, huge ones and those outside the valid range are missing."""
    truth = mask_file(tmp_path / "mask.nc")
    with xr.open_dataset(tmp_path / "mask.nc") as opened:
        ds = opened.load()
    ds["tas"] = ds["tas"].fillna(mark).assign_attrs(attrs)
    ds.to_netcdf(tmp_path / "marked.nc", encoding={"tas": {"_FillValue": None}})
    if refused:
        with pytest.raises(EarthSSLError, match=f"got {mark:g}, far from the others.*declare it as _FillValue"):
            read_mask(tmp_path / "marked.nc", "1893-08", GRID)
    else:
        assert np.array_equal(read_mask(tmp_path / "marked.nc", "1893-08", GRID), truth)


def test_files_that_are_none_are_refused(tmp_path: Path) -> None:
    """Missing, or not NetCDF."""
    with pytest.raises(EarthSSLError, match="found none"):
        read_mask(tmp_path / "none.nc", "1893-08", GRID)
    (tmp_path / "text.nc").write_text("no data")
    with pytest.raises(EarthSSLError, match="cannot be read"):
        read_mask(tmp_path / "text.nc", "1893-08", GRID)
    mask_file(tmp_path / "mask.nc")
    with xr.open_dataset(tmp_path / "mask.nc") as opened:
        opened.load().drop_encoding().isel(time=slice(0, 0)).to_netcdf(tmp_path / "empty.nc")
    with pytest.raises(EarthSSLError, match="found it 0 times; there are none"):
        read_mask(tmp_path / "empty.nc", "1893-08", GRID)


def test_the_two_months_of_hadcrut(shared_data: Path) -> None:
    """A quarter and a third of all cells are observed in 1877-09 and 1893-08."""
    for month, missing in (("1877-09", 0.766), ("1893-08", 0.687)):
        seen = read_mask(shared_data / "hadcrut4_two_months_gappy.nc", month, GRID)
        assert 1 - seen.mean() == pytest.approx(missing, abs=1e-3)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"kind": "clouds"}, "Did you mean 'cloud'"),
        ({"observed": 0.0}, r"observed: expected observed in \(0, 1\)"),
        ({"observed": float("nan")}, r"observed: expected observed in \(0, 1\)"),
        ({"kind": "swath", "tracks": 0}, "tracks ≥ 1"),
        ({"kind": "block", "box": (0.0, 60.0)}, "expected height"),
        ({"kind": "file"}, "expected a path and a month"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], match: str) -> None:
    """One line with the remedy."""
    with pytest.raises(EarthSSLError, match=match):
        GapConfig(**settings)


def test_masks_that_hide_nothing_or_all_are_refused() -> None:
    """A share that rounds to all or none, too many stations, a grid without known cells."""
    few = np.zeros(GRID.shape, bool)
    few[0, :4] = True
    with pytest.raises(EarthSSLError, match="hides nothing"):
        Gaps(GapConfig("random", observed=0.95), GRID, few).observed(0)
    with pytest.raises(EarthSSLError, match="leaves nothing observed"):
        Gaps(GapConfig("cloud", observed=0.05), GRID, few).observed(0)
    with pytest.raises(EarthSSLError, match="fewer stations than the 4"):
        Gaps(GapConfig("stations", stations=4), GRID, few).observed(0)
    with pytest.raises(EarthSSLError, match="expected some known cells"):
        Gaps(GapConfig(), GRID, few & False)
