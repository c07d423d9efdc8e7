"""Climatological sea surface temperature along tracks, and the potential intensity that follows from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr
from scipy.ndimage import distance_transform_edt

from ...ssl.common.errors import EarthSSLError
from ...ssl.fields.grid import LatLonGrid
from ...ssl.sources import open_source
from ...ssl.sources.planet.storm_intensity import KNOT, potential_intensity
from ...ssl.store.store import Store
from .crop_geometry import interpolate

MONTHS = 12


@dataclass(frozen=True, eq=False)
class SstClimatology:
    """Monthly means.

    Attributes:
        months: K, (12, row, column); no gaps: land has the value of the nearest sea.
        grid: Of the maps.
        times: The months they are the means of, datetime64[M], ascending.
    """

    months: np.ndarray
    grid: LatLonGrid
    times: np.ndarray

    @property
    def period(self) -> str:
        """First and last year of those months, such as "2010–2014"; one year only once."""
        years = [str(time.astype("datetime64[Y]")) for time in self.times[[0, -1]]]
        return "–".join(dict.fromkeys(years))

    @classmethod
    def from_file(cls, path: str, years: tuple[int, int]) -> SstClimatology:
        """Return the means of the years, both included, of a file with `sst`.

        Raises:
            EarthSSLError: If the file cannot be read or lacks one of the calendar months in those years.
        """
        data = open_source("files", path=path, variables=["sst"], time=(str(years[0]), str(years[1])))
        return cls.of(data["sst"])

    @classmethod
    def of(cls, sst: xr.DataArray) -> SstClimatology:
        """Return the monthly means of canonical fields, K."""
        found = sst["time"].to_numpy().astype("datetime64[M]")
        month = found.astype(int) % MONTHS
        absent = sorted(set(range(MONTHS)) - set(month.tolist()))
        if absent:
            raise EarthSSLError(
                f"sst: expected all calendar months between {found.min()} and {found.max()}, got none of month "
                f"{absent[0] + 1}; widen sst_years"
            )
        means = sst.astype(float).groupby("time.month").mean("time").to_numpy()
        grid = LatLonGrid(sst["lat"].to_numpy(), sst["lon"].to_numpy())
        return cls(filled(means, grid), grid, np.unique(found))

    @classmethod
    def of_store(cls, store: Store) -> SstClimatology:
        """Return the climatology of a store with `sst`: that of its training block."""
        middle = np.array([f"2001-{month:02d}-15" for month in range(1, MONTHS + 1)], "datetime64[s]")
        position = store.variables.index("sst")
        months = store.statistics.select([position]).climatology(middle)[:, 0].astype(float)
        inside = store.times[store.splits.inside(store.times, "train")].astype("datetime64[M]")
        return cls(filled(months, store.grid), store.grid, np.unique(inside))

    def at(self, time: np.ndarray, lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
        """Return SST at times and places, K, (n,): linear in space (held beyond the outermost
        centres), and in time between the middles of months."""
        position = month_position(time)
        before = np.floor(position).astype(int)
        share = position - before
        grid, every = self.grid, np.arange(len(before))
        lat, lon = np.clip(lat, grid.lat[-1], grid.lat[0]), np.asarray(lon, dtype=float)
        if not grid.periodic:
            lon = np.clip((lon - grid.lon[0] + 180) % 360 - 180 + grid.lon[0], grid.lon[0], grid.lon[-1])
        months = np.broadcast_to(self.months, (len(before), 1, *self.months.shape))
        found = interpolate(months, grid, lat, lon)[:, 0]
        return found[every, before % MONTHS] * (1 - share) + found[every, (before + 1) % MONTHS] * share


def file_years(path: str) -> tuple[int, int]:
    """Return the first and last year of which a file has SST."""
    times = open_source("files", path=path, variables=["sst"])["time"]
    return int(times.dt.year.min()), int(times.dt.year.max())


def month_position(time: np.ndarray) -> np.ndarray:
    """Return months since the middle of January 1970, which has 0; the middle of every month is a whole number."""
    month = np.asarray(time).astype("datetime64[M]")
    first, after = month.astype("datetime64[s]"), (month + 1).astype("datetime64[s]")
    share = (np.asarray(time).astype("datetime64[s]") - first) / (after - first)
    return np.asarray(month.astype(int) + share - 0.5)


def filled(maps: np.ndarray, grid: LatLonGrid) -> np.ndarray:
    """Return maps (…, row, column) whose gaps have the value of the nearest cell that has one.

    Raises:
        EarthSSLError: If a map is empty.
    """
    out = np.array(maps, dtype=float)
    around = grid.shape[1] if grid.periodic else 0
    for one in out.reshape(-1, *grid.shape):
        if not np.isfinite(one).any():
            raise EarthSSLError("sst: expected sea in every month of the climatology, got a map without; choose a file")
        wide = np.concatenate([one, one, one], axis=1) if around else one
        row, column = distance_transform_edt(np.isnan(wide), return_distances=False, return_indices=True)
        one[:] = wide[row, column][:, around : around + grid.shape[1]]
    return out


def potential_intensity_kt(sst: np.ndarray) -> np.ndarray:
    """Return the maximum potential intensity, kt, of the sea surface temperature, K (DeMaria & Kaplan 1994)."""
    return np.asarray(potential_intensity(sst) / KNOT)
