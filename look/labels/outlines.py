"""Outlines on the sphere: corners joined by great circles; whether they may stand, and which cells lie inside.

Seen from the centre of the sphere on the plane that touches it in the outline's middle (gnomonic projection), great
circles are straight lines: crossings and insides are those of the plane, across the date line and round a pole, too.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.grid import LatLonGrid

Outline = tuple[tuple[float, float], ...]  # latitude and longitude of the corners, degrees, longitude in [0, 360)

DIGITS = 4  # of a degree, as tables hold places
MOST_CORNERS = 200
FARTHEST = 80.0  # degrees of a corner from the middle


def check_corners(corners: Any, fewest: int = 3) -> Outline:
    """Return corners as they are kept: rounded, one after the same one left out; nothing is said of their shape.

    Args:
        corners: Lists of latitude and longitude, degrees, longitude within -180…360.
        fewest: How many different ones there must be.

    Raises:
        EarthSSLError: If they are no such list, too few or too many.
    """
    if not isinstance(corners, (list, tuple)) or len(corners) > MOST_CORNERS + 1:
        got = f"{len(corners)} corners" if isinstance(corners, (list, tuple)) else str(corners)[:40]
        raise EarthSSLError(f"region: expected a list of at most {MOST_CORNERS} corners, got {got}")
    found: list[tuple[float, float]] = []
    for corner in corners:
        lat, lon = check_place(corner, "region")
        if not found or found[-1] != (lat, lon):
            found.append((lat, lon))
    if len(found) > 1 and found[0] == found[-1]:
        found.pop()
    if not fewest <= len(found) <= MOST_CORNERS:
        raise EarthSSLError(f"region: expected {fewest} to {MOST_CORNERS} different corners, got {len(found)}")
    return tuple(found)


def check_place(place: Any, what: str = "place") -> tuple[float, float]:
    """Return latitude and longitude in degrees, longitude in [0, 360), rounded to what tables hold.

    Raises:
        EarthSSLError: If it is not two finite numbers on the sphere.
    """
    fine = isinstance(place, (list, tuple)) and len(place) == 2
    fine = fine and all(isinstance(part, (int, float)) and not isinstance(part, bool) for part in place)
    if not fine or not (abs(place[0]) <= 90 and -180 <= place[1] <= 360):
        raise EarthSSLError(f"{what}: expected [latitude, longitude] in degrees, got {str(place)[:60]}")
    return round(float(place[0]), DIGITS) + 0.0, round(float(place[1]) % 360, DIGITS) % 360


def check_outline(corners: Any) -> Outline:
    """Return an outline that encloses one region, its inside being the side of its middle.

    Raises:
        EarthSSLError: If its corners are not right, it does not fit on half of the globe, or it meets itself.
    """
    found = check_corners(corners)
    middle = _middle(found)
    if middle is None or (_vectors(*np.array(found).T) @ middle < math.cos(math.radians(FARTHEST))).any():
        raise EarthSSLError(
            f"region: expected corners within {FARTHEST:g}° of their middle, got more than half of the globe; draw it "
            "in parts"
        )
    if _meets_itself(_plane(middle, *np.array(found).T)):
        raise EarthSSLError(
            "region: expected an outline that does not cross or touch itself, got one that does; take corners back, "
            "or draw it in parts"
        )
    return found


def centre(outline: Outline) -> tuple[float, float]:
    """Return latitude and longitude of the middle of the corners, degrees, longitude in [0, 360)."""
    middle = _middle(outline)
    assert middle is not None
    lat = math.degrees(math.asin(max(-1.0, min(1.0, middle[2]))))
    return lat, math.degrees(math.atan2(middle[1], middle[0])) % 360


def inside(outline: Outline, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return which places lie inside or on an edge, bool, of the shape that latitudes and longitudes, degrees, make."""
    lat, lon = np.broadcast_arrays(np.asarray(lat, float), np.asarray(lon, float))
    middle = _middle(outline)
    assert middle is not None
    corners = _plane(middle, *np.array(outline).T)
    near = _vectors(lat, lon) @ middle > math.cos(math.radians(89.9))  # the plane shows one half of the globe
    x, y = _plane(middle, lat[near], lon[near]).T
    odd, on = np.zeros(len(x), bool), np.zeros(len(x), bool)
    for (x0, y0), (x1, y1) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        crosses = (y0 > y) != (y1 > y)
        odd[crosses] ^= x[crosses] < x0 + (y[crosses] - y0) * (x1 - x0) / (y1 - y0)
        length = (x1 - x0) ** 2 + (y1 - y0) ** 2
        along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length, 0, 1)
        on |= np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)) < 1e-9
    found = np.zeros(lat.shape, bool)
    found[near] = odd | on
    return found


def cells_of(outline: Outline, grid: LatLonGrid) -> np.ndarray:
    """Return which cells of a grid have their centre inside, bool (row, column)."""
    return inside(outline, grid.lat[:, None], grid.lon[None, :])


def _vectors(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return places as unit vectors, (…, 3)."""
    p, q = np.deg2rad(lat), np.deg2rad(lon)
    return np.stack([np.cos(p) * np.cos(q), np.cos(p) * np.sin(q), np.sin(p)], axis=-1)


def _middle(outline: Outline) -> np.ndarray | None:
    total = _vectors(*np.array(outline).T).sum(axis=0)
    length = float(np.linalg.norm(total))
    return total / length if length > 1e-6 * len(outline) else None


def _plane(middle: np.ndarray, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return places on the plane that touches the sphere in the middle, (place, 2)."""
    first = np.cross(middle, np.eye(3)[np.abs(middle).argmin()])
    first /= np.linalg.norm(first)
    vectors = _vectors(lat, lon)
    return np.stack([vectors @ first, vectors @ np.cross(middle, first)], axis=-1) / (vectors @ middle)[..., None]


def _meets_itself(corners: np.ndarray) -> bool:
    """Return whether two edges of a polygon on the plane, (corner, 2), have more in common than a corner of both."""
    count = len(corners)
    if len(np.unique(corners.round(9), axis=0)) < count:
        return True
    after = np.roll(corners, -1, axis=0)
    along, on = after - corners, np.roll(after - corners, -1, axis=0)
    back = np.abs(along[:, 0] * on[:, 1] - along[:, 1] * on[:, 0]) <= 1e-12
    if (back & ((along * on).sum(axis=1) < 0)).any():  # an edge that goes back on the one before
        return True

    def sides(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return on which side of each edge, first axis, each corner, second axis, lies: -1, 0 or 1."""
        found = (b[:, None, 0] - a[:, None, 0]) * (corners[None, :, 1] - a[:, None, 1])
        found -= (b[:, None, 1] - a[:, None, 1]) * (corners[None, :, 0] - a[:, None, 0])
        return np.where(np.abs(found) < 1e-12, 0, np.sign(found))

    starts = sides(corners, after)
    ends = np.roll(starts, -1, axis=1)
    straddles = starts * ends <= 0
    low, high = np.minimum(corners, after), np.maximum(corners, after)
    boxes = (low[:, None] <= high[None] + 1e-12).all(axis=-1)
    far = np.abs(np.subtract.outer(np.arange(count), np.arange(count)))
    apart = (far > 1) & (far < count - 1)
    return bool((straddles & straddles.T & boxes & boxes.T & apart).any())
