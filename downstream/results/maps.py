"""Maps behind a picture: kept as NetCDF beside it, and packed into a report, which shows them on globes."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from markupsafe import Markup
from matplotlib.figure import Figure

from ...ssl.common.errors import EarthSSLError, in_a_line
from ...ssl.fields.grid import LatLonGrid

MISSING = -32768
MOST_ROWS, MOST_COLUMNS = 96, 192  # of a map in a report
MOST_BYTES = 1_500_000  # of a picture's maps there; finer or more of them are shown by means of cells


def packed_fields(fields: np.ndarray) -> dict[str, Any]:
    """Return fields in 16 bits for a page's script: value = offset + scale × code, -32768 where missing."""
    finite = fields[np.isfinite(fields)]
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    offset, scale = (low + high) / 2, (high - low) / 65000 or 1.0
    codes = np.round(np.where(np.isfinite(fields), (fields - offset) / scale, MISSING))
    return {"offset": offset, "scale": scale, "data": base64.b64encode(codes.astype("<i2").tobytes()).decode()}


def as_data(record: Any) -> Markup:
    """Return JSON that nothing in it can end the element of."""
    return Markup(json.dumps(record, allow_nan=False).replace("<", "\\u003c"))


@dataclass(frozen=True, eq=False)
class Maps:
    """Fields on one grid, each with its own colour scale.

    Attributes:
        fields: By name, float32 (row, column), NaN where nothing is known.
        grid: Of them all.
        ends: Of the colour scales, (map, 2); about 0 where they are alike, and drawn so.
        units: Of each map.
        whole: Whether they are all that the picture shows.
        classes: Whether values are numbers of classes, of which no mean is taken.
    """

    fields: Mapping[str, np.ndarray]
    grid: LatLonGrid
    ends: np.ndarray
    units: Sequence[str]
    whole: bool = True
    classes: bool = False

    @classmethod
    def of(
        cls, fields: Mapping[str, np.ndarray], grid: LatLonGrid, ends: Any, units: str | Sequence[str],
        whole: bool = True, classes: bool = False,
    ) -> Maps:  # fmt: skip
        """Return maps with one scale and unit for all, or one each.

        Args:
            fields: By name.
            grid: Of them all.
            ends: (2,) or (map, 2).
            units: One, or one each.
            whole: Whether they are all that the picture shows.
            classes: Whether values are numbers of classes.
        """
        own = [units] * len(fields) if isinstance(units, str) else list(units)
        plain = {name: np.asarray(field, np.float32) for name, field in fields.items()}
        return cls(plain, grid, np.broadcast_to(np.asarray(ends, float), (len(fields), 2)), own, whole, classes)

    def dataset(self) -> xr.Dataset:
        """Return them as NetCDF holds them: maps (map, lat, lon), low, high and units (map)."""
        one = self.units[0] if len(set(self.units)) == 1 else ""
        return xr.Dataset(
            {
                "maps": (("map", "lat", "lon"), np.stack(list(self.fields.values())).astype(np.float32),
                         {"units": one} if one else {}),
                "low": ("map", self.ends[:, 0]), "high": ("map", self.ends[:, 1]), "units": ("map", list(self.units)),
            },
            {"map": list(self.fields), "lat": self.grid.lat, "lon": self.grid.lon},
            {"whole": int(self.whole), "classes": int(self.classes)},
        )  # fmt: skip

    @classmethod
    def read(cls, file: Path) -> Maps:
        """Return what `dataset` holds, from a file.

        Raises:
            EarthSSLError: If the file holds no such maps.
        """
        try:
            with xr.open_dataset(file) as data:
                values, ends = data["maps"].values, np.stack([data["low"].values, data["high"].values], axis=1)
                names, units = ([str(one) for one in data[name].values] for name in ("map", "units"))
                grid = LatLonGrid(data["lat"].values, data["lon"].values)
                whole, classes = bool(data.attrs.get("whole", 1)), bool(data.attrs.get("classes", 0))
            return cls(dict(zip(names, values, strict=True)), grid, ends, units, whole, classes)
        except (OSError, KeyError, ValueError) as error:
            words = in_a_line(error, 200)
            raise EarthSSLError(
                f"{file}: expected the maps of a picture ({words}); remove it, or make it anew"
            ) from None

    def json(self) -> Markup:
        """Return what the script of a report needs, as JSON; too many cells are shown by means (of classes, by one)."""
        rows, columns = self.grid.shape
        by = max(-(-rows // MOST_ROWS), -(-columns // MOST_COLUMNS))
        while 8 / 3 * len(self.fields) * (rows // by) * (columns // by) > MOST_BYTES and by < min(rows, columns):
            by += 1
        down, across = np.arange(0, rows, by), np.arange(0, columns, by)
        lat, lon = ([*bounds[::by][: len(at)], bounds[-1]] for bounds, at in
                    ((self.grid.lat_bounds, down), (self.grid.lon_bounds, across)))  # fmt: skip
        fewer = _picked if self.classes else _means
        maps = [
            {"name": name, "units": units, "low": float(low), "high": float(high),
             **packed_fields(fewer(np.asarray(field, float), down, across))}
            for (name, field), units, (low, high) in zip(self.fields.items(), self.units, self.ends, strict=True)
        ]  # fmt: skip
        return as_data({
            "meta": {"rows": len(down), "columns": len(across), "periodic": bool(self.grid.periodic),
                     "lat_bounds": np.round(lat, 4).tolist(), "lon_bounds": np.round(lon, 4).tolist()},
            "by": by, "classes": self.classes, "maps": maps,
        })  # fmt: skip

    @property
    def few(self) -> bool:
        """Whether globes show all of the picture at once, so that it may step back."""
        return self.whole and len(self.fields) <= 3


def _picked(field: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return the cells of these rows and columns."""
    return field[down][:, across]


def _means(field: np.ndarray, down: np.ndarray, across: np.ndarray) -> np.ndarray:
    """Return means over the blocks of cells that begin at these rows and columns; NaN where none is known."""
    known = np.isfinite(field)

    def sums(values: np.ndarray) -> np.ndarray:
        return np.asarray(np.add.reduceat(np.add.reduceat(values, down, axis=0), across, axis=1))

    count = sums(known.astype(float))
    return np.divide(sums(np.where(known, field, 0)), count, out=np.full(count.shape, np.nan), where=count > 0)


class MapFigure(Figure):
    """A picture of maps that remembers them.

    Attributes:
        maps: What it shows; None where it is not said.
    """

    maps: Maps | None = None
