"""Maps that a run wrote as NetCDF: attributions of `explain`, predicted fields of `finetune`, examples of pretraining.

Whatever has latitude and longitude on the store's grid is a map; its other dimensions are choices.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from ..ssl.common.errors import EarthSSLError
from ..ssl.fields.grid import LatLonGrid
from .labels.netcdf_lock import NETCDF_LOCK

MOST_FILES, MOST_MAPS = 32, 64
MOST_CHOICES = 100_000  # of one dimension
LONGEST = 80  # of what a choice is called


@dataclass(frozen=True)
class RunMap:
    """Where a map stands, and what is chosen of it.

    Attributes:
        file: NetCDF.
        name: Of the variable.
        title: File below the run's folder, and name.
        words: What it is, and its units.
        units: "1" where it has none.
        choices: Each other dimension's name and the names of its members, in order.
    """

    file: Path
    name: str
    title: str
    words: str
    units: str
    choices: tuple[tuple[str, tuple[str, ...]], ...]


class RunMaps:
    """The maps of a run's folder and the folders in it, on one grid.

    Attributes:
        maps: In order of files and names.
    """

    def __init__(self, folder: Path, grid: LatLonGrid) -> None:
        """List what there is; fields are read when they are asked for.

        Raises:
            EarthSSLError: If there is no such folder, or no map on the grid in it.
        """
        if not folder.is_dir():
            raise EarthSSLError(f"--run {folder}: expected the folder of a run, found none; check the path")
        self.grid = grid
        files = sorted({*folder.glob("*.nc"), *folder.glob("*/*.nc")})[:MOST_FILES]
        self.maps = [one for file in files for one in self._listed(file, folder)][:MOST_MAPS]
        if not self.maps:
            raise EarthSSLError(
                f"--run {folder}: expected NetCDF files with maps on the store's grid ({grid}), such as those of "
                f"explain, got none ({len(files)} files)"
            )

    def describe(self) -> list[dict[str, Any]]:
        """Return what the page needs to choose one, as plain JSON."""
        return [
            {"title": one.title, "words": one.words, "units": one.units,
             "choices": [{"name": name, "members": list(members)} for name, members in one.choices]}
            for one in self.maps
        ]  # fmt: skip

    def read(self, number: int, at: list[int]) -> np.ndarray:
        """Return a map, float32 (row, column), north first; NaN where nothing is known.

        Args:
            number: Of the map, as `describe` lists them.
            at: Index of the member of each choice.

        Raises:
            EarthSSLError: If there is no such map or member, or the file cannot be read any more.
        """
        if not 0 <= number < len(self.maps):
            raise EarthSSLError(f"map: expected 0…{len(self.maps) - 1}, got {number}")
        one = self.maps[number]
        if len(at) != len(one.choices) or any(
            not 0 <= k < len(members) for k, (_, members) in zip(at, one.choices, strict=False)
        ):
            sizes = ", ".join(f"{name} 0…{len(members) - 1}" for name, members in one.choices)
            raise EarthSSLError(f"at: expected {sizes or 'nothing'}, got {at[:9]}")
        try:
            with NETCDF_LOCK, xr.open_dataset(one.file, decode_times=False) as data:
                chosen = data[one.name].isel({name: k for k, (name, _) in zip(at, one.choices, strict=True)})
                chosen = chosen.transpose("lat", "lon").assign_coords(lon=chosen["lon"] % 360)
                field = chosen.sortby("lat", ascending=False).sortby("lon").values
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise EarthSSLError(f"{one.file}: cannot be read any more ({str(error)[:200]}); start anew") from None
        if field.shape != self.grid.shape:
            raise EarthSSLError(f"{one.file}: expected the grid that it had at the start; start anew")
        return np.asarray(field, np.float32)

    def _listed(self, file: Path, folder: Path) -> list[RunMap]:
        """Return the maps of a file; none where it cannot be read as NetCDF."""
        found = []
        try:
            with NETCDF_LOCK, xr.open_dataset(file) as data:
                for name, values in data.data_vars.items():
                    if not {"lat", "lon"} <= set(values.dims) or values.dtype.kind not in "iuf":
                        continue
                    if not self._on_grid(data) or not 0 < min(values.shape) <= max(values.shape) <= MOST_CHOICES:
                        continue
                    others = [str(dim) for dim in values.dims if dim not in ("lat", "lon")]
                    choices = tuple((dim, _members(data, dim)) for dim in others)
                    words, units = (str(values.attrs.get(key, other))[:200]
                                    for key, other in (("long_name", ""), ("units", "1")))  # fmt: skip
                    title = f"{file.relative_to(folder)}: {name}"
                    found.append(RunMap(file, str(name), title, words, units, choices))
        except (OSError, ValueError):
            return []
        return found

    def _on_grid(self, data: xr.Dataset) -> bool:
        if "lat" not in data.coords or "lon" not in data.coords:
            return False
        lat, lon = data["lat"].values, data["lon"].values
        if lat.ndim != 1 or lon.ndim != 1 or (len(lat), len(lon)) != self.grid.shape:
            return False
        ordered = np.sort(lat.astype(float))[::-1], np.sort(lon.astype(float) % 360)
        return all(np.allclose(a, b, atol=1e-3) for a, b in zip(ordered, (self.grid.lat, self.grid.lon), strict=True))


def _members(data: xr.Dataset, dim: str) -> tuple[str, ...]:
    if dim not in data.coords:
        return tuple(map(str, range(data.sizes[dim])))
    values = data[dim].values
    if np.issubdtype(values.dtype, np.datetime64):
        values = np.datetime_as_string(values, unit="s")
    return tuple((one.decode("utf-8", "replace") if isinstance(one, bytes) else str(one))[:LONGEST] for one in values)
