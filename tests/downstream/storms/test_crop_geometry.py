"""Squares turned into the motion of a storm: points on the sphere, winds carried along, headings, gaps."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from earthssl.downstream.storms.crop_geometry import around, headings, interpolate, turn_wind
from earthssl.ssl.fields.grid import LatLonGrid

GRID = LatLonGrid(87.5 - 5 * np.arange(36), 5.0 * np.arange(72))
TIMES = np.datetime64("2001-01-01", "s") + np.timedelta64(6, "h") * np.arange(60)


def test_turning_back_is_the_identity() -> None:
    rng = np.random.default_rng(0)
    u, v, angle = rng.standard_normal((3, 20))
    back = turn_wind(*turn_wind(u, v, angle), -angle)
    np.testing.assert_allclose(back, (u, v), atol=1e-12)
    # a wind towards the motion points up: the heading is turned to 0
    heading = np.deg2rad(250.0)
    ahead = turn_wind(np.sin(heading), np.cos(heading), -heading)
    np.testing.assert_allclose(ahead, (0, 1), atol=1e-12)


def test_points_lie_where_the_sphere_says() -> None:
    """5° ahead of a storm on the equator that moves east is 5° east; ahead of a northward one, 5° north."""
    lat, lon, angle = around(
        np.array([0.0, 30.0]),
        np.array([358.0, 10.0]),
        np.array([90.0, 0.0]),
        np.array([-5.0, 0, 5]),
        np.array([5.0, 0]),
    )
    np.testing.assert_allclose([lat[0, 0, 1], lon[0, 0, 1]], [0, 3], atol=1e-9)
    np.testing.assert_allclose([lat[0, 1, 0], lon[0, 1, 0]], [5, 358], atol=1e-9)
    np.testing.assert_allclose([lat[1, 0, 1], lon[1, 0, 1]], [35, 10], atol=1e-9)
    np.testing.assert_allclose([lat[:, 1, 1], lon[:, 1, 1]], [[0, 30], [358, 10]], atol=1e-9)
    np.testing.assert_allclose(angle[0, :, 1], -np.pi / 2, atol=1e-9)  # along the equator nothing converges
    np.testing.assert_allclose(angle[0, 1], -np.pi / 2, atol=1e-9)  # nor along a meridian
    np.testing.assert_allclose(angle[1, :, 1], 0, atol=1e-9)
    # to the right of the northward storm, meridians lean: by about Δλ sin φ, half way there and half beyond
    assert angle[1, 1, 2] == pytest.approx(-angle[1, 1, 0])
    assert abs(angle[1, 1, 2]) == pytest.approx(np.deg2rad(5) * np.tan(np.deg2rad(30)), rel=0.02)


@pytest.mark.parametrize("heading", [0.0, 37.0, 90.0, 205.0])
def test_divergence_and_vorticity_do_not_see_the_turn(heading: float) -> None:
    """A wind that is linear in place has on the turned square the divergence and vorticity it has on the map."""
    east, north = np.where(GRID.lon > 180, GRID.lon - 360, GRID.lon)[None, :], GRID.lat[:, None]
    wind = np.stack([0.3 * east - 0.7 * north, 0.2 * east + 0.5 * north])  # divergence .8, vorticity .9 a degree
    across, ahead = np.arange(-1.0, 1.1), np.arange(1.0, -1.1, -1)
    lat, lon, angle = around(np.zeros(1), np.zeros(1), np.array([heading]), across, ahead)
    u, v = interpolate(wind[None, :, None], GRID, lat, lon)[0, :, 0]
    u, v = turn_wind(u, v, angle[0])
    assert (u[1, 2] - u[1, 0]) / 2 + (v[0, 1] - v[2, 1]) / 2 == pytest.approx(0.8, rel=1e-3)
    assert (v[1, 2] - v[1, 0]) / 2 - (u[0, 1] - u[2, 1]) / 2 == pytest.approx(0.9, rel=1e-3)


def test_interpolation_is_exact_for_linear_fields_and_knows_its_gaps() -> None:
    maps = np.broadcast_to(GRID.lat[:, None] + 0.1 * np.minimum(GRID.lon, 360 - GRID.lon), (1, 1, 1, 36, 72)).copy()
    lat, lon = np.array([[11.0, -3.7, 50.0]]), np.array([[33.0, 100.0, 358.0]])
    found = interpolate(maps, GRID, lat, lon)[0, 0, 0]
    np.testing.assert_allclose(found, [11 + 3.3, -3.7 + 10, 50 + 0.2])
    maps[0, 0, 0, 15, 7] = np.nan  # 12.5 N, 35 E: holds 0.7 × 0.6 of the first point
    again = interpolate(maps, GRID, np.array([[11.0, 12.4]]), np.array([[33.0, 34.9]]))[0, 0, 0]
    assert np.isfinite(again[0])
    assert np.isnan(again[1])
    part = LatLonGrid(GRID.lat[10:20], GRID.lon[10:30])
    edge = interpolate(maps[..., 10:20, 10:30], part, np.array([[20.0, 20.0, 20.0]]), np.array([[47.0, 149.0, 48.0]]))
    assert np.isnan(edge[0, 0, 0]).tolist() == [True, True, False]


def test_headings_are_bearings_of_the_way_so_far() -> None:
    places = (4, 0.0, 359.0), (5, 0.0, 1.0), (6, 2.0, 1.0), (7, 2.0, 1.0), (20, 3.0, 1.0), (21, 3.0, 0.0)
    step, lat, lon = (np.array(column) for column in zip(*places, strict=True))
    tracks = pd.DataFrame({"storm": 1, "time": TIMES[step], "lat": lat, "lon": lon})
    tracks.loc[5, "storm"] = 2
    np.testing.assert_allclose(headings(tracks), [np.nan, 90, 0, np.nan, np.nan, np.nan], atol=1e-6)
    shuffled = tracks.iloc[[2, 0, 5, 1, 4, 3]]
    np.testing.assert_allclose(headings(shuffled), [0, np.nan, np.nan, 90, np.nan, np.nan], atol=1e-6)
