"""LatLonGrid: areas against integrals, boxes across 0°E, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid, cell_bounds


def globe(rows: int, columns: int, poles: bool = False, east: float = 0.0) -> LatLonGrid:
    """A global grid, with rows on the poles or half a cell away from them."""
    spacing = 180 / (rows - 1 if poles else rows)
    lat = 90 - spacing * (np.arange(rows) + (0 if poles else 0.5))
    return LatLonGrid(lat, east + np.arange(columns) * 360 / columns)


@pytest.mark.parametrize(
    "grid", [globe(73, 144, True), globe(32, 64), globe(181, 360, True, 0.5), globe(2, 2)], ids=str
)
def test_the_cells_of_a_globe_cover_it_once(grid: LatLonGrid) -> None:
    assert grid.area.shape == grid.shape
    assert abs(grid.area.sum() - 1) < 1e-12
    assert (grid.area > 0).all()
    assert grid.periodic


def test_a_pole_row_keeps_its_cap() -> None:
    # The cap within 1.25° of the pole is (1 - cos 1.25°) / 2 of the sphere.
    assert globe(73, 144, poles=True).area[0].sum() == pytest.approx((1 - np.cos(np.deg2rad(1.25))) / 2, rel=1e-12)


def test_area_is_the_integral_of_the_cosine_of_latitude() -> None:
    uneven = LatLonGrid(np.array([60.0, 50, 30, 29, -10]), np.array([10.0, 12, 20]))
    fine = 4000
    for row in range(5):
        north, south = np.deg2rad(uneven.lat_bounds[row : row + 2])
        middles = south + (north - south) * (np.arange(fine) + 0.5) / fine
        strip = np.cos(middles).mean() * (north - south)
        for column in range(3):
            west, east = np.deg2rad(uneven.lon_bounds[column : column + 2])
            assert uneven.area[row, column] == pytest.approx(strip * (east - west) / (4 * np.pi), rel=1e-6)


def test_bounds_lie_between_centres_and_stop_at_the_poles() -> None:
    np.testing.assert_array_equal(cell_bounds(np.array([10.0, 20, 40])), [5, 15, 30, 50])
    np.testing.assert_array_equal(LatLonGrid([90, 0, -80], [0, 180]).lat_bounds, [90, 45, -40, -90])
    np.testing.assert_array_equal(LatLonGrid([10, 0], [0, 120, 240]).lon_bounds, [-60, 60, 180, 300])


def test_only_a_whole_circle_is_periodic() -> None:
    assert globe(8, 16, east=3.0).periodic
    assert LatLonGrid([10, 0], np.arange(1080, dtype=np.float32) / 3).periodic  # rounding of float32 is forgiven
    assert not LatLonGrid([10, 0], np.arange(0, 355, 5.0)).periodic
    assert not LatLonGrid([10, 0], np.arange(120, 290, 5.0)).periodic


@pytest.mark.parametrize(("west", "east"), [(350, 10), (-10, 10), (350, 370), (-10, 370 - 360)])
def test_a_box_across_0_east(west: float, east: float) -> None:
    inside = globe(18, 36).box(-90, 90, west, east)
    np.testing.assert_array_equal(np.flatnonzero(inside.all(0)), [0, 1, 35])
    assert inside.sum() == 18 * 3


def test_a_box_is_closed_and_knows_west_as_negative() -> None:
    grid = globe(37, 72, poles=True)
    box = grid.box(-5, 5, 190, 240)
    rows, columns = np.nonzero(box)
    assert sorted(set(grid.lat[rows])) == [-5, 0, 5]
    assert sorted(set(grid.lon[columns])) == list(np.arange(190, 241, 5))
    np.testing.assert_array_equal(grid.box(-5, 5, -170, -120), box)
    assert grid.box(-90, 90, 0, 360).all()
    assert grid.box(-90, 90, -180, 180).all()
    np.testing.assert_array_equal(np.flatnonzero(grid.box(-90, 90, 300, 360).all(0)), [0, *range(60, 72)])
    np.testing.assert_array_equal(np.flatnonzero(grid.box(-90, 90, 20, 20).all(0)), [4])


def test_the_edge_of_a_box_survives_rounding() -> None:
    grid = LatLonGrid([10, 0], np.arange(3600) / 10)
    for west, east in [(190.1, 240.3), (-169.9, -119.7), (359.9, 0.3)]:
        count = round(((east - west) % 360) * 10) + 1
        assert grid.box(0, 10, west, east)[0].sum() == count


def test_a_box_without_a_cell_is_refused() -> None:
    with pytest.raises(EarthSSLError, match=r"no cell of the grid .* lies in the box 40…50°N"):
        LatLonGrid([10, 0], [0, 5]).box(40, 50, 0, 5)


@pytest.mark.parametrize(
    ("lat", "lon", "message"),
    [
        ([0, 10], [0, 5], "north to south"),
        ([10, 10], [0, 5], "north to south"),
        ([95, 0], [0, 5], "within ±90"),
        ([10, np.nan], [0, 5], "north to south"),
        ([10, 0], [-5, 5], r"\[0, 360\)"),
        ([10, 0], [5, 0], "ascending"),
        ([10, 0], [0, 360], r"\[0, 360\)"),
        ([[10, 0]], [0, 5], "one-dimensional"),
    ],
)
def test_axes_that_are_no_grid_are_refused(lat: list[float], lon: list[float], message: str) -> None:
    with pytest.raises(EarthSSLError, match=message):
        LatLonGrid(np.array(lat), np.array(lon))


def test_a_single_row_has_no_bounds() -> None:
    with pytest.raises(EarthSSLError, match="at least 2 cells"):
        _ = LatLonGrid([10], [0, 5]).area


def test_json_and_back_is_the_same_grid() -> None:
    grid = LatLonGrid(np.linspace(61.3, -17.9, 7), np.linspace(0.1, 359.3, 11))
    again = LatLonGrid.from_json(grid.to_json())
    np.testing.assert_array_equal(again.lat, grid.lat)
    np.testing.assert_array_equal(again.lon, grid.lon)
    assert again.same_as(grid)
    assert not LatLonGrid(grid.lat + 0.01, grid.lon).same_as(grid)
    assert not LatLonGrid(grid.lat[:-1], grid.lon).same_as(grid)
