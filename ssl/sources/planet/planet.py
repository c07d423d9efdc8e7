"""Planet: a small synthetic Earth whose hidden state, and so whose best reachable forecast, is known.

A rotating planet with continents, a seasonal cycle, a nonlinear ENSO with its wind, pressure and delayed
far-away responses, westward planetary waves, smooth red noise in ocean and air, and a slow warming. It is
the embedded default for a first run without network, and the known answer for tests. Always label what it
gives as synthetic.

Every field is linear in a few dozen hidden columns (`geography.COLUMNS`), field(t) = columns(t) @ patterns,
and the columns are made day by day with noise drawn year by year. Hence a longer planet begins with the
shorter one of the same seed, the monthly planet is the mean of the daily one, and blocks of any length can
be computed when they are read.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import xarray as xr

from ...common.errors import EarthSSLError, nearest
from ...fields.grid import LatLonGrid
from ..regrid import region_of
from ..selection import Selection
from . import upper_air
from .enso_oscillator import STATES, Oscillator
from .geography import AIR_MODES, CLIMATE, COLUMNS, OCEAN_MODES, RESPONSES, WAVES, Geography
from .hidden_states import MONTH, assemble, daily_states, ocean_decay
from .options import check_names, check_start, mistake
from .storms import MARKED, Storms, Weather

_mistake = partial(mistake, "planet")
STEPS = ("monthly", "daily", "6-hourly")
VARIABLES = {
    "sst": ("K", "sea surface temperature", "sea_surface_temperature"),
    "t2m": ("K", "2 m temperature", "air_temperature"),
    "u10": ("m s-1", "10 m eastward wind", "eastward_wind"),
    "v10": ("m s-1", "10 m northward wind", "northward_wind"),
    "msl": ("Pa", "mean sea level pressure", "air_pressure_at_mean_sea_level"),
}
EAGER_BYTES = 256 * 2**20  # above this the fields are computed when they are read
NINO34 = (-5, 5, 190, 240)


@dataclass(frozen=True)
class PlanetConfig:
    """Options of the planet.

    Attributes:
        years: Length, whole years.
        start: First day, a 1 January ("1900-01-01").
        step: "monthly" (calendar means, stamped at the month's first instant), "daily" or "6-hourly"
            (values at that time; only 6-hourly has the daily cycle of land).
        seed: Which history of the planet; its geography does not depend on it.
        shape: Rows and columns of the grid, global, no pole rows.
        trend_k_per_century: Global warming.
        noise: Factor on the noise of ocean and air (not on the noise that drives ENSO).
        storms: Mean number of tropical storms a year; above 0, only with 6-hourly steps, the planet has them
            and the variables u850, v850, u200, v200 and r700. Without them it is the same planet.
        world: Which dynamics ENSO has: 0 the usual ones, every other number its own (`Oscillator.of_world`). Geography
            and patterns are the same on all of them.

    Raises:
        EarthSSLError: If an option is out of range.
    """

    years: int = 120
    start: str = "1900-01-01"
    step: str = "monthly"
    seed: int = 0
    shape: tuple[int, int] = (32, 64)
    trend_k_per_century: float = 0.8
    noise: float = 1.0
    storms: float = 0.0
    world: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(self.shape))
        if self.step not in STEPS:
            raise _mistake("step", f"one of {', '.join(STEPS)}", self.step, nearest(str(self.step), STEPS))
        if not (isinstance(self.years, int) and self.years > 0):
            raise _mistake("years", "a whole number above 0", self.years)
        if not (isinstance(self.seed, int) and self.seed >= 0):
            raise _mistake("seed", "a whole number from 0", self.seed)
        if not (isinstance(self.world, int) and self.world >= 0):
            raise _mistake("world", "a whole number from 0", self.world)
        if len(self.shape) != 2 or min(self.shape) < 8:
            raise _mistake("shape", "rows and columns, 8 at least", self.shape)
        if self.noise < 0:
            raise _mistake("noise", "a factor from 0", self.noise)
        if not 0 <= self.storms <= 900:
            raise _mistake("storms", "0 (none) to 900 a year", self.storms)
        if self.storms and self.step != "6-hourly":
            raise _mistake("step", "6-hourly with storms", self.step, " Set storms to 0, or step to 6-hourly.")
        check_start("planet", self.start, self.years)


class Planet:
    """One history of the synthetic planet.

    Args:
        config: Its options.
        oscillator: Parameters of its ENSO; None for those of its world.
    """

    def __init__(self, config: PlanetConfig | None = None, oscillator: Oscillator | None = None) -> None:
        self.config = config or PlanetConfig()
        self.oscillator = oscillator or Oscillator.of_world(self.config.world)
        rows, columns = self.config.shape
        self.grid = LatLonGrid(90 - (np.arange(rows) + 0.5) * 180 / rows, np.arange(columns) * 360 / columns)
        self.geography = Geography(self.grid)
        self._integrate()

    @property
    def variables(self) -> dict[str, tuple[str, str, str]]:
        """Units, long name and CF standard name of every variable."""
        return VARIABLES | (upper_air.VARIABLES if self.config.storms else {})

    @property
    def time(self) -> np.ndarray:
        """Times of the fields, datetime64[ns], shape (times,)."""
        unit = {"monthly": "M", "daily": "D", "6-hourly": "6h"}[self.config.step]
        return np.arange(self._year(0), self._year(self.config.years), dtype=f"datetime64[{unit}]").astype(
            "datetime64[ns]"
        )

    def dataset(self) -> xr.Dataset:
        """Return the fields: dims (time, lat, lon), float32, canonical names and units, SST NaN on land.

        Computed at once up to 256 MiB, else lazy (dask) in blocks of one year.
        """
        if self.config.storms:
            self._storms.table  # noqa: B018  made here once, not in every thread that reads a block
        shape = (len(self.time), *self.grid.shape)
        lazy = 4 * len(self.variables) * int(np.prod(shape)) > EAGER_BYTES
        fields = {}
        for name, (units, long_name, standard_name) in self.variables.items():
            blocks = range(self.config.years)
            if lazy:
                part = dask.delayed(self._block)
                data = da.concatenate(
                    [da.from_delayed(part(name, year), (self._count(year), *shape[1:]), np.float32) for year in blocks]
                )
            else:
                data = np.concatenate([self._block(name, year) for year in blocks])
            attrs = {"units": units, "long_name": long_name, "standard_name": standard_name}
            fields[name] = (("time", "lat", "lon"), data, attrs)
        options = dataclasses.asdict(self.config)
        if not self.config.world:  # stores made before there were worlds say nothing of it
            del options["world"]
        attrs = {
            "source": "planet (synthetic)",
            "licence": "CC0",
            "citation": "earthssl synthetic planet; not observations",
            "planet": json.dumps(options),
        }
        coords = {"time": self.time, "lat": self.grid.lat, "lon": self.grid.lon}
        return xr.Dataset(fields, coords, attrs)

    def hidden(self) -> xr.Dataset:
        """Return the hidden states at the times of the fields (means over the month for monthly steps).

        Variables, by time: `t_e`, `h_w`, `t_squared`, `t_lagged` (K, K, K², K), `wind` (unit variance),
        `trend` (K), `nino34` (K: the true Niño 3.4 anomaly, trend included; only where the grid has cells
        in the box), `wave` (time, number; complex amplitudes), `ocean` and `air` (time, mode).
        """
        table = np.concatenate([self._at_steps(year) for year in range(self.config.years)])
        parts: dict[str, Any] = {name: ("time", table[:, COLUMNS.index(name)]) for name in (*RESPONSES, "trend")}
        real, turned = (table[:, _columns(f"wave_{part}_", len(WAVES))] for part in ("re", "im"))
        parts["wave"] = (("time", "number"), real + 1j * turned)
        parts["ocean"] = (("time", "mode_ocean"), table[:, _columns("ocean_", OCEAN_MODES)])
        parts["air"] = (("time", "mode_air"), table[:, _columns("air_", AIR_MODES)])
        if self._index_weights is not None:
            parts["nino34"] = ("time", table[:, : len(COLUMNS)] @ self._index_weights)
        return xr.Dataset(parts, {"time": self.time}, {"source": "planet (synthetic)"})

    def nino34_forecast(self, init_times: Any, leads: Sequence[int], members: int = 200, seed: int = 0) -> np.ndarray:
        """Return the best reachable forecast of Niño 3.4, K, shape (leads, initial times).

        The expectation, given the whole hidden state at the end of the initial month, of the mean anomaly
        over the months lead - 1, lead and lead + 1 after it; months up to the initial one are the truth.
        ENSO by an ensemble with redrawn noise, the ocean's own noise by its known decay. Anomalies are
        from the planet's climatology without trend and ENSO: a constant per calendar month away from
        anomalies of any base period.

        Args:
            init_times: Times in the initial months.
            leads: Whole months from 1.
            members: Ensemble size.
            seed: Of the ensemble.

        Raises:
            EarthSSLError: If an initial month is outside the planet's years, a lead is below 1, or the
                grid has no cell in the Niño 3.4 box.
        """
        months = np.atleast_1d(np.asarray(init_times, dtype="datetime64[M]"))
        first = self._year(0).astype("datetime64[M]")
        at = (months - first).astype(int)
        if len(at) and not (at.min() >= 0 and at.max() < 12 * self.config.years):
            span = f"{first}…{first + 12 * self.config.years - 1}"
            raise _mistake("init_times", f"months within {span}", f"{months.min()}…{months.max()}")
        if not len(leads) or min(leads) < 1:
            raise _mistake("leads", "whole months from 1", list(leads))
        weights = self._index_weights
        if weights is None:
            raise _mistake("shape", "a grid with rows within 5S–5N for Niño 3.4", self.config.shape)
        ahead = max(leads) + 1
        start = self._month_start[at + 1]
        rng = np.random.default_rng([self.config.seed, seed, 4])
        a, b, c = (float(weights[COLUMNS.index(name)]) for name in ("t_e", "t_squared", "h_w"))
        future = self.oscillator.expected_index(
            start[:, : len(STATES)], (at + 1) % 12, ahead, (a, b, c), rng, members + members % 2
        )
        days = (np.arange(ahead)[:, None] + (np.arange(30) + 0.5) / 30) * MONTH
        ocean = ocean_decay() ** days[..., None]
        future += ocean.mean(axis=1) @ (weights[_columns("ocean_", OCEAN_MODES)] * start[:, len(STATES) :]).T
        when = (at[None, :] + 1.5 + np.arange(ahead)[:, None]) / 1200
        future += weights[COLUMNS.index("trend")] * self.config.trend_k_per_century * when
        series = np.concatenate([self._index[at][None], future])
        return np.stack([series[lead - 1 : lead + 2].mean(axis=0) for lead in leads])

    def tracks(self) -> pd.DataFrame:
        """Return the true tracks of the storms, a row a storm and 6-hourly record, in the order of both.

        Columns: `storm` (calendar year of birth × 1000 + number), `basin` (of birth), `time`, `lat`, `lon` (in
        [0, 360)), `wind_kt` (largest wind, not rounded), `category` (-1 depression, 0 tropical storm, 1–5),
        `over_water`; and, hidden from whoever forecasts, `potential_intensity` (m/s, 0 over land), `shear` (m/s),
        `chi`, `m` and `ventilation_noise`, the states of storm_intensity.py.

        Raises:
            EarthSSLError: If the planet has no storms.
        """
        return self._storms.tracks(self.time)

    def intensification_forecast(
        self,
        samples: pd.DataFrame,
        threshold_kt: float = 30.0,
        hours: int = 24,
        members: int = 400,
        seed: int = 0,
    ) -> np.ndarray:
        """Return the best reachable chance that the wind rises by the threshold within the hours, (samples,).

        From the whole hidden state at the time, by an ensemble of the true model with redrawn noise, along the
        true track through the true air (perfect prognosis: of the future, only the noise of the intensity is
        unknown). Given is that the storm lives so long: members that do not are left out.

        Args:
            samples: Columns `storm` and `time`, as in `tracks`.
            threshold_kt: From the wind at the time to the wind `hours` later.
            hours: A multiple of 6.
            members: Ensemble size.
            seed: Of the ensemble.

        Raises:
            EarthSSLError: If the planet has no storms, a sample is none of their records, or its storm ends
                within the hours.
        """
        return self._storms.forecast(samples, self.time, threshold_kt, hours, members, seed)

    @cached_property
    def _storms(self) -> Storms:
        if not self.config.storms:
            raise _mistake("storms", "above 0 for tracks and forecasts", self.config.storms)
        first = (np.array([self._year(k) for k in range(self.config.years + 1)]) - self._year(0)).astype(int)
        table = np.hstack([self._table, self._aloft])
        table[:, COLUMNS.index("ocean_0") : len(COLUMNS)] *= self.config.noise
        return Storms(Weather(table, first, int(self.config.start[:4])), self.config.seed, self.config.storms)

    @cached_property
    def _aloft(self) -> np.ndarray:
        """Modes of the upper air at the beginning of every day and the end of the last, float32."""
        days = [self._days(year) for year in range(self.config.years)]
        return (self.config.noise * upper_air.modes(self.config.seed, days)).astype(np.float32)

    @cached_property
    def _patterns(self) -> dict[str, np.ndarray]:
        """Patterns with the noise level and the daily cycle's two columns, float64."""
        patterns = self.geography.patterns()
        noise = slice(COLUMNS.index("ocean_0"), None)
        hour = np.deg2rad(self.grid.lon)[None, :] - 2 * np.pi * 14.5 / 24  # warmest at half past two
        swing = 4.0 * np.cos(np.deg2rad(self.grid.lat))[:, None] * self.geography.land
        for name, values in patterns.items():
            values[noise] *= self.config.noise
            daily = [swing * np.cos(hour), -swing * np.sin(hour)] if name == "t2m" else [0 * swing] * 2
            patterns[name] = np.concatenate([values, daily])
        return patterns

    @cached_property
    def _flat_patterns(self) -> dict[str, np.ndarray]:
        patterns = self._patterns
        if self.config.storms:
            patterns = patterns | upper_air.patterns(self.geography, patterns)
        return {name: values.reshape(len(values), -1).astype(np.float32) for name, values in patterns.items()}

    @cached_property
    def _index_weights(self) -> np.ndarray | None:
        """What each column adds to the Niño 3.4 anomaly, K; None where the grid has no cell in the box."""
        try:
            box = self.grid.box(*NINO34)
        except EarthSSLError:
            return None
        area = np.where(box, self.grid.area, 0)
        weights = (self._patterns["sst"][: len(COLUMNS)] * area / area.sum()).sum(axis=(1, 2))
        weights[: CLIMATE.index("trend")] = 0
        return weights

    def _block(self, name: str, year: int) -> np.ndarray:
        """Fields of one year, (times, rows, columns), float32.

        Always whole years, so that the same numbers come out whatever is read with them; the last ones made are
        kept, as a reader takes a year in several bites.
        """
        if 4 * len(self.variables) * self._count(year) * int(np.prod(self.grid.shape)) > EAGER_BYTES:
            return self._made(name, year)
        return self._kept(name, year).copy()

    @cached_property
    def _kept(self) -> Callable[[str, int], np.ndarray]:
        return lru_cache(maxsize=len(self.variables))(self._made)

    def _made(self, name: str, year: int) -> np.ndarray:
        table = self._at_steps(year).astype(np.float32)
        if name in upper_air.VARIABLES:
            table = np.hstack([table[:, : len(COLUMNS)], self._quarters(self._aloft, year).astype(np.float32)])
        patterns = self._flat_patterns[name][: table.shape[1]]
        values: np.ndarray = (table @ patterns).reshape(-1, *self.grid.shape)
        if name == "sst":
            values[:, self.geography.land] = np.nan
        if name == "r700":
            values = np.clip(values, upper_air.DRIEST, upper_air.WETTEST)
        if self.config.storms and name in MARKED:
            first = 4 * int((self._year(year) - self._year(0)).astype(int))
            values += self._storms.mark(name, self.grid, first, len(values))
        return values

    def _at_steps(self, year: int) -> np.ndarray:
        """Columns at the steps of one year, (times, columns); two more at 6-hourly steps: the daily cycle."""
        first = (self._year(year) - self._year(0)).astype(int)
        if self.config.step == "monthly":
            return self._table[12 * year : 12 * year + 12]
        if self.config.step == "daily":
            return self._table[first : first + self._days(year)]
        table = self._quarters(self._table, year)
        angle = 2 * np.pi * np.arange(len(table)) / 4
        return np.column_stack([table, np.cos(angle), np.sin(angle)])

    def _quarters(self, table: np.ndarray, year: int) -> np.ndarray:
        """Return the daily columns at the 6-hourly steps of a year, (times, columns)."""
        first = int((self._year(year) - self._year(0)).astype(int))
        days = table[first : first + self._days(year) + 1]
        quarter = np.arange(4)[None, :, None] / 4
        return np.asarray(days[:-1, None] * (1 - quarter) + days[1:, None] * quarter).reshape(-1, table.shape[1])

    def _year(self, year: int) -> np.datetime64:
        """1 January of a year counted from the start, in days."""
        return (np.datetime64(self.config.start, "Y") + year).astype("datetime64[D]")

    def _days(self, year: int) -> int:
        return int((self._year(year + 1) - self._year(year)).astype(int))

    def _count(self, year: int) -> int:
        """Steps in a year."""
        return {"monthly": 12, "daily": self._days(year), "6-hourly": 4 * self._days(year)}[self.config.step]

    def _integrate(self) -> None:
        """Run the hidden states through all years and keep the columns at the steps and at month ends."""
        table, starts, index = [], [], []
        days = [self._days(year) for year in range(self.config.years)]
        for year, states in enumerate(daily_states(self.config.seed, self.oscillator, days)):
            columns = assemble(states, year, self.config.trend_k_per_century, self.oscillator.variance)
            firsts = (self._year(year).astype("datetime64[M]") + np.arange(13)).astype("datetime64[D]")
            edges = (firsts - self._year(year)).astype(int)
            monthly = np.add.reduceat(columns[:-1], edges[:-1]) / np.diff(edges)[:, None]
            table.append(monthly if self.config.step == "monthly" else columns[:-1])
            kept = np.r_[: len(STATES), len(STATES) + 2 * len(WAVES) : states.shape[1] - AIR_MODES]
            starts.append(states[np.ix_(edges[:-1], kept)])
            if self._index_weights is not None:
                index.append(monthly @ self._index_weights)
        if self.config.step == "6-hourly":
            table.append(columns[-1:])
        starts.append(states[-1:, kept])
        self._table = np.concatenate(table).astype(np.float32)
        self._month_start = np.concatenate(starts)
        self._index = np.concatenate(index) if index else np.empty(0)


def open_planet(
    variables: Sequence[str] | None = None, region: Sequence[float] | None = None, **options: Any
) -> xr.Dataset:
    """Return the dataset of a planet with the given PlanetConfig options, all or some of its variables.

    `region` (south, north, west, east, degrees) keeps the cells inside a box that does not cross 0°E.

    Raises:
        EarthSSLError: If an option or a variable is unknown or out of range.
    """
    check_names("planet", PlanetConfig, options, more=("variables", "region"))
    planet = Planet(PlanetConfig(**options))
    for name in variables or ():
        if name not in planet.variables:
            hint = " It comes with storms." if name in upper_air.VARIABLES else nearest(name, planet.variables)
            raise _mistake("variables", f"some of {', '.join(planet.variables)}", name, hint)
    dataset = planet.dataset()
    if region is not None:
        dataset = region_of(dataset, Selection(region=region).region, "planet")  # type: ignore[arg-type]
    return dataset[list(variables)] if variables else dataset


def _columns(prefix: str, count: int) -> slice:
    first = COLUMNS.index(f"{prefix}0")
    return slice(first, first + count)
