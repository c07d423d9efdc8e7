"""What is known of a storm at a time: from its track, and from the climatology of the sea below it."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.interpolate import RegularGridInterpolator
from scipy.ndimage import distance_transform_edt

from ..ssl.errors import EarthSSLError
from ..ssl.sources import open_source
from . import best_tracks

BASE = ("wind_kt", "wind_squared", "abs_lat", "season_sin", "season_cos")
TRACK = ("dv6", "dv12", "dv24", "no_dv6", "no_dv12", "no_dv24", "east", "poleward", "age_h", "strongest_kt")
OCEAN = ("sst", "mpi_kt", "pot_kt")
KNOTS = 0.514444  # m/s


def predictors(tracks: pd.DataFrame, found: pd.DataFrame) -> pd.DataFrame:
    """Return the samples with what the track tells of them up to their time.

    Wind (kt) and its square, absolute latitude, time of year (half a year later in the south), changes over the
    last 6, 12 and 24 h (kt, and whether unknown), motion over the last 6 h (degrees of arc eastward and poleward),
    age (h) and the strongest wind so far (kt).
    """
    look = best_tracks.Lookup(tracks)
    past: dict[str, np.ndarray] = {}
    wind = tracks["wind_kt"].to_numpy(dtype=float)
    for hours in (6, 12, 24):
        past[f"dv{hours}"] = wind - look.at("wind_kt", -hours)
        past[f"no_dv{hours}"] = ~np.isfinite(past[f"dv{hours}"])
    lat, lon = tracks["lat"].to_numpy(), tracks["lon"].to_numpy()
    step = (lon - look.at("lon", -6) + 180) % 360 - 180
    past["east"] = step * np.cos(np.deg2rad(lat))
    past["poleward"] = (lat - look.at("lat", -6)) * np.where(lat < 0, -1, 1)
    storms = tracks.groupby("storm", sort=False)
    past["age_h"] = ((tracks["time"] - storms["time"].transform("min")) / pd.Timedelta(hours=1)).to_numpy()
    past["strongest_kt"] = storms["wind_kt"].cummax().to_numpy()
    keys = ["storm", "time"]
    table = found.merge(tracks[keys].assign(**past), on=keys, how="left", validate="one_to_one")
    day = table["time"].dt.day_of_year + np.where(table["lat"] < 0, 182.6, 0.0)
    table["wind_squared"], table["abs_lat"] = table["wind_kt"] ** 2, table["lat"].abs()
    table["season_sin"], table["season_cos"] = (f(2 * np.pi * day / 365.25) for f in (np.sin, np.cos))
    for basin in sorted(set(table["basin"]) - {"SA"}):
        table[f"in_{basin}"] = (table["basin"] == basin).astype(float)
    return table


def potential_intensity_kt(sst_c: np.ndarray) -> np.ndarray:
    """Return the empirical maximum potential intensity over an SST (°C), kt (DeMaria & Kaplan 1994)."""
    return (28.2 + 55.8 * np.exp(0.1813 * (np.asarray(sst_c) - 30))) / KNOTS


def climatological_sst(file: str, first: int, last: int, table: pd.DataFrame) -> np.ndarray:
    """Return the SST (°C) of the time of year at each sample's place, linear in space and between mid-months.

    Land takes the nearest sea. The climatology is the mean of each calendar month over the years first … last.

    Raises:
        EarthSSLError: If the file holds none of these years for some calendar month.
    """
    field_ = open_source("files", path=file, variables=["sst"])["sst"]
    years = field_["time"].dt.year
    monthly = field_[(years >= first).values & (years <= last).values]
    if len(set(monthly["time"].dt.month.values.tolist())) < 12:
        raise EarthSSLError(
            f"rapid_intensification.sst_years: expected every calendar month within {first}–{last} in {file}, got "
            f"{len(monthly['time'])} months of {int(years.min())}–{int(years.max())}; choose years it holds"
        )
    means = monthly.groupby("time.month").mean("time").transpose("month", "lat", "lon").sortby("lat")
    filled = np.stack([_filled(one) for one in means.values.astype(float)]) - 273.15
    months = np.concatenate([filled[-1:], filled, filled[:1]])
    wrapped = np.concatenate([months[..., -1:], months, months[..., :1]], axis=2)
    lon = means["lon"].values
    axes = (np.arange(14) - 0.5, means["lat"].values, np.r_[lon[-1] - 360, lon, lon[0] + 360])
    moment = table["time"].dt
    within = moment.month.to_numpy() - 1 + (moment.day.to_numpy() - 0.5) / moment.days_in_month.to_numpy()
    south, north = axes[1][0], axes[1][-1]
    points = np.stack([within, np.clip(table["lat"], south, north), table["lon"] % 360], 1)
    return np.asarray(RegularGridInterpolator(axes, wrapped)(points))


def _filled(values: np.ndarray) -> np.ndarray:
    nearest = distance_transform_edt(~np.isfinite(values), return_distances=False, return_indices=True)
    return values[tuple(nearest)]


def add_ocean(table: pd.DataFrame, file: str, first: int, last: int) -> None:
    sst = climatological_sst(file, first, last, table)
    mpi = potential_intensity_kt(sst)
    for name, values in zip(OCEAN, (sst, mpi, mpi - table["wind_kt"].to_numpy()), strict=True):
        table[f"{name} {first}–{last}"] = values
