"""Outlines on the sphere: insides by brute force, over the date line and round a pole; what may not stand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from earthssl.look.labels.outlines import MOST_CORNERS, cells_of, centre, check_corners, check_outline, inside
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid

GRID = LatLonGrid(np.linspace(88, -88, 45), np.arange(0, 360, 4.0))
COARSE = LatLonGrid(np.linspace(88, -88, 23), np.arange(0, 360, 8.0))


def by_winding(corners: Any, lat: float, lon: float) -> bool:
    """Whether the corners go once round a place as seen from it: sum of the angles between their directions there."""

    def vector(lat: float, lon: float) -> np.ndarray:
        p, q = math.radians(lat), math.radians(lon)
        return np.array([math.cos(p) * math.cos(q), math.cos(p) * math.sin(q), math.sin(p)])

    here, found = vector(lat, lon), [vector(*corner) for corner in corners]
    if here @ sum(found) < 0:  # the other half of the globe, where an outline goes round its antipode
        return False
    total = 0.0
    for a, b in zip(found, [*found[1:], found[0]], strict=True):
        a, b = a - (a @ here) * here, b - (b @ here) * here
        total += math.atan2(here @ np.cross(a, b), a @ b)
    return abs(total) > math.pi


@pytest.mark.parametrize(
    "corners",
    [
        [(20, 100), (20, 140), (50, 140), (50, 100)],
        [(10, 160), (-15, -150), (40, -140), (55, 175)],  # over the date line
        [(10, 350), (-15, 20), (40, 30), (55, 5)],  # over Greenwich
        [(70, 0), (60, 120), (65, 240)],  # round the north pole
        [(-70, 0), (-62, 100), (-80, 190), (-65, 250)],
        [(0, 0), (40, 0), (40, 60), (30, 60), (30, 20), (0, 20)],  # with a notch
    ],
)
def test_insides_are_those_of_the_winding_number(corners: Any) -> None:
    corners = [(lat + 0.7, lon + 0.3) for lat, lon in corners]  # no cell's centre on an edge
    outline = check_outline([list(corner) for corner in corners])
    found = cells_of(outline, COARSE)
    expected = [[by_winding(corners, lat, lon) for lon in COARSE.lon] for lat in COARSE.lat]
    assert found.sum() > 10
    np.testing.assert_array_equal(found, expected)
    backwards = cells_of(check_outline([list(corner) for corner in corners[::-1]]), COARSE)
    np.testing.assert_array_equal(found, backwards)


def test_a_cap_round_the_pole_holds_it_and_covers_its_share_of_the_sphere() -> None:
    ring = [[61, lon] for lon in range(0, 360, 5)]
    found = cells_of(check_outline(ring), GRID)
    assert (found.sum(axis=1) % 90 == 0).all()  # whole rows
    share = (found * GRID.area).sum()
    assert share == pytest.approx((1 - math.sin(math.radians(61))) / 2, rel=0.1)
    assert inside(check_outline(ring), 90.0, 0.0)
    assert centre(check_outline(ring))[0] == pytest.approx(90)


def test_edges_are_great_circles_not_lines_of_the_map() -> None:
    outline = check_outline([[40, 0], [40, 120], [0, 60]])
    top = math.degrees(math.atan(math.tan(math.radians(40)) / math.cos(math.radians(60))))  # of the arc, half way
    assert inside(outline, top - 0.1, 60.0)
    assert not inside(outline, top + 0.1, 60.0)
    assert centre(outline)[1] == pytest.approx(60)


def test_what_lies_on_an_edge_is_inside_whichever_way_the_corners_go() -> None:
    corners = [[20, 100], [20, 140], [52, 140], [52, 100]]
    for given in (corners, corners[::-1], corners[2:] + corners[:2]):
        outline = check_outline(given)
        assert inside(outline, np.array([20.0, 36.0, 52.0, 30.0]), np.array([100.0, 100.0, 140.0, 140.0])).all()
        assert not inside(outline, np.array([36.0, 36.0]), np.array([99.999, 140.001])).any()


def test_turning_the_globe_turns_the_inside() -> None:
    outline = [(10.3, 20.1), (-20.2, 60.1), (35.1, 50.3)]
    found = cells_of(check_outline(outline), GRID)
    for by in (4, 160, 300):
        turned = check_outline([(lat, (lon + by) % 360) for lat, lon in outline])
        np.testing.assert_array_equal(cells_of(turned, GRID), np.roll(found, by // 4, axis=1))


def test_corners_are_kept_as_tables_hold_them() -> None:
    found = check_corners([[1.000049, -0.00001], [1.0, 0.0], [2, 359.99999], [3, -90], [1, 0]])
    assert found == ((1.0, 0.0), (2.0, 0.0), (3.0, 270.0))
    assert check_corners([], fewest=0) == ()


@pytest.mark.parametrize(
    ("corners", "said"),
    [
        (None, "list of at most"),
        ("polygon", "list of at most"),
        ({"0": [0, 0]}, "list of at most"),
        ([[0, 0], [0, 10]], "3 to 200"),
        ([[0, 0], [0, 10], [0, 10], [0, 0]], "3 to 200"),
        ([[k / 10, k] for k in range(MOST_CORNERS + 2)], "at most 200 corners, got 202"),
        ([[0, 0], [0, 10], [math.nan, 5]], "latitude, longitude"),
        ([[0, 0], [0, 10], [10, math.inf]], "latitude, longitude"),
        ([[0, 0], [0, 10], [10**400, 5]], "latitude, longitude"),
        ([[0, 0], [0, 10], [91, 5]], "latitude, longitude"),
        ([[0, 0], [0, 10], [10, 361]], "latitude, longitude"),
        ([[0, 0], [0, 10], [10, "5"]], "latitude, longitude"),
        ([[0, 0], [0, 10], [10, True]], "latitude, longitude"),
        ([[0, 0], [0, 10], [10, 5, 5]], "latitude, longitude"),
        ([[0, 0], [0, 10], 5], "latitude, longitude"),
        ([[0, 0], [10, 10], [10, 0], [0, 10]], "cross or touch"),  # a bow tie
        ([[0, 175], [10, -175], [10, 175], [0, -175]], "cross or touch"),  # one over the date line
        ([[0, 0], [0, 20], [10, 20], [0, 10], [10, 0]], "cross or touch"),  # a corner on an edge
        ([[0, 0], [0, 10], [0, 5], [10, 5]], "cross or touch"),  # back on itself
        ([[0, 0], [5, 5], [0, 10], [10, 10], [5, 5], [10, 0]], "cross or touch"),  # a corner twice
        ([[0, 0], [0, 10], [0, 20]], "cross or touch"),  # nothing inside
        ([[0, 0], [0, 120], [0, 240]], "half of the globe"),
        ([[60, 0], [-60, 60], [60, 180]], "half of the globe"),
        ([[0, 0], [0, 90], [0, 180]], "half of the globe"),
    ],
)
def test_what_is_no_outline_is_refused(corners: Any, said: str) -> None:
    with pytest.raises(EarthSSLError, match=said):
        check_outline(corners)


def test_edges_on_one_meridian_that_do_not_meet_may_stand() -> None:
    """Two edges of an outline like a C lie on one great circle, apart from each other."""
    shape = [[0, 0], [0, 20], [10, 20], [10, 10], [20, 10], [20, 20], [30, 20], [30, 0]]
    assert len(check_outline(shape)) == 8


def test_random_outlines_meet_themselves_where_their_edges_do() -> None:
    """Against plain geometry of lines near the equator, where the plane of a small region is nearly the map."""

    def crosses(a: Any, b: Any, c: Any, d: Any) -> bool:
        matrix = np.array([b - a, c - d]).T
        s, t = np.linalg.solve(matrix, c - a)
        return bool(0 <= s <= 1 and 0 <= t <= 1)

    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(60):
        corners = rng.uniform(-1, 1, (6, 2)).round(3)
        edges = [(corners[k], corners[(k + 1) % 6]) for k in range(6)]
        expected = any(crosses(*edges[i], *edges[j]) for i in range(6) for j in range(i + 2, 6) if (i, j) != (0, 5))
        try:
            check_outline(corners.tolist())
            met = False
        except EarthSSLError:
            met = True
        assert met == expected
        outcomes.append(met)
    assert 5 < sum(outcomes) < 55
