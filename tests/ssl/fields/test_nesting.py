"""Nesting: factors, area means, interpolation between centres, and grids that do not nest."""

from __future__ import annotations

import numpy as np
import pytest
from earthssl.ssl.common.errors import EarthSSLError
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.fields.nesting import nesting

COARSE = LatLonGrid(np.array([5.0, -5.0]), np.array([105.0, 115.0, 125.0]))


def fine(south: float, north: float, west: float, east: float, side: float) -> LatLonGrid:
    """Return cells of so many degrees that fill a box."""
    lat = np.arange(north - side / 2, south, -side)
    return LatLonGrid(lat, np.arange(west + side / 2, east, side))


def test_cells_in_cells() -> None:
    found = nesting(fine(-12.5, 12.5, 97.5, 135, 2.5), COARSE, "file")
    assert (found.factor, found.first, found.fine.shape) == ((4, 4), (1, 1), (8, 12))
    np.testing.assert_allclose(found.fine.lat_bounds[[0, -1]], [10, -10])
    fields = np.arange(10 * 15.0).reshape(10, 15)
    np.testing.assert_array_equal(found.cut(fields), fields[1:9, 1:13])
    assert nesting(COARSE, COARSE, "file").factor == (1, 1)


def test_means_are_by_area_and_their_repetition_has_the_same_means() -> None:
    found = nesting(fine(-10, 10, 100, 130, 5), COARSE, "file")
    fields = np.random.default_rng(0).normal(size=(3, 4, 6))
    area = np.cos(np.deg2rad(found.fine.lat))  # exact for rows of one height, up to a factor
    first = fields[:, :2, :2]
    by_hand = (first.sum(axis=2) * area[:2]).sum(axis=1) / (2 * area[:2].sum())
    np.testing.assert_allclose(found.means(fields)[:, 0, 0], by_hand, rtol=1e-9)
    total = (fields * found.fine.area).sum(axis=(1, 2))
    np.testing.assert_allclose((found.means(fields) * COARSE.area).sum(axis=(1, 2)), total, rtol=1e-9)
    np.testing.assert_allclose(found.means(found.repeated(found.means(fields))), found.means(fields))


def test_a_linear_field_is_found_between_the_centres_and_held_beyond() -> None:
    found = nesting(fine(-10, 10, 100, 130, 5), COARSE, "file")
    linear = 2 * COARSE.lat[:, None] + 3 * COARSE.lon
    lat, lon = np.clip(found.fine.lat, -5, 5), np.clip(found.fine.lon, 105, 125)
    np.testing.assert_allclose(found.bilinear(linear), 2 * lat[:, None] + 3 * lon)


def test_a_missing_cell_is_missed_where_it_counts_alone() -> None:
    found = nesting(fine(-10, 10, 100, 130, 5), COARSE, "file")
    fields = np.arange(6.0).reshape(2, 3)
    gappy = fields.copy()
    gappy[0, 0] = np.nan
    told, lost = found.bilinear(gappy), np.zeros((4, 6), bool)
    lost[:3, :3] = True  # the centre of the next column lies between the third and the fourth; so with rows
    np.testing.assert_array_equal(np.isnan(told), lost)
    np.testing.assert_allclose(told[~lost], found.bilinear(fields)[~lost])


def test_round_the_globe_the_last_column_is_the_first_ones_neighbour() -> None:
    coarse = LatLonGrid(np.array([45.0, -45.0]), np.arange(30.0, 360, 60))
    found = nesting(LatLonGrid(np.array([67.5, 22.5, -22.5, -67.5]), np.arange(15.0, 360, 30)), coarse, "file")
    wave = np.array([[6.0, 0, 0, 0, 0, 0]] * 2)
    np.testing.assert_allclose(found.bilinear(wave)[0], [4.5, 4.5, 1.5, 0, 0, 0, 0, 0, 0, 0, 0, 1.5])


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (fine(-10, 10, 100, 120, 5), "cells, 100° to 130° of longitude, got .* 100° to 120°"),
        (fine(-5, 10, 100, 130, 5), "cover the store's cells, -10° to 10° of latitude"),
        (fine(-12, 12, 99, 135, 4), "got one of latitude 8° to 12° across the store's edge at 10°"),
        (LatLonGrid(np.array([6.0, -4, -14]), COARSE.lon), "of latitude 1° to 11° .*the grids do not nest"),
        (fine(-20, 20, 100, 140, 20), "fill the store's cells, got one of latitude"),
    ],
)  # fmt: skip
def test_what_does_not_nest_is_refused_with_the_place(labels: LatLonGrid, said: str) -> None:
    with pytest.raises(EarthSSLError, match=f"^file: expected .*{said}") as caught:
        nesting(labels, COARSE, "file")
    assert "\n" not in str(caught.value)


def test_rows_at_the_poles_are_caps_of_half_the_height() -> None:
    """Cells of 15° in rows of 30° about 90°, 60°, …: one in the cap, two in the others."""
    lon = np.arange(15.0, 360, 30)
    caps, bands = LatLonGrid(np.arange(90.0, -91, -30), lon), LatLonGrid(np.arange(82.5, -90, -15), lon)
    with pytest.raises(EarthSSLError, match=r"as many rows of labels in every cell of the store, .* got 1 to 2"):
        nesting(bands, caps, "file")
