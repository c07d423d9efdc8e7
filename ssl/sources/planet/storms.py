"""Storms: the synthetic planet's tropical storms, their hidden truth and the mark they leave in the fields.

Genesis is a seeded point process: places and hours are thrown on the tropics and kept with a chance that rises
with warm sea, moist air, weak shear and distance from the equator. The track is a beta-advection model (0.8 of
the wind at 850 hPa, 0.2 of that at 200 hPa, and a drift; Lin et al. 2023, arXiv 2302.09455) with red noise; the
intensity is Fast. All of it is computed on a grid of its own from the hidden columns, so that every resolution
sees the same storms; noise is drawn year by year, so that a longer planet begins with the shorter one.

The mark is a vortex much wider and weaker than the storm, as coarse analyses show it: the wind turns cyclonically
with its largest value, 0.2 V at 10 m, at 400 km, free of divergence and in gradient balance with the pressure
(6 hPa at V = 60 m/s and 15° from the equator).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
import pandas as pd

from ...common.errors import EarthSSLError
from ...fields.grid import LatLonGrid
from .geography import DENSITY, RADIUS, ROTATION, Geography
from .storm_intensity import HOURS, KNOT, NOISES, SUBSTEPS, Fast, potential_intensity, saturation_deficit
from .upper_air import DRIEST, WETTEST, patterns

TROPICS = (4.0, 28.0)  # degrees from the equator where storms are born
ACCEPTED = 0.053  # share of the places thrown that become storms, measured over 80 years
AGES = 60  # records of the longest storm: 15 days
FAREST = 45.0  # degrees from the equator: beyond it, and within
NEAREST = 2.0  # these, a storm is over
WEAKEST = 9.0  # m/s: below it too
FIRST_WIND = 13.0  # m/s, at genesis
STEERING = {"u850": 0.8, "v850": 0.8, "u200": 0.2, "v200": 0.2}
DRIFT = (-1.0, 2.5)  # m/s, eastward and poleward
WANDER, WANDER_MEMORY = 1.0, 24.0  # m/s and hours: red noise of the track
OUTER_WIND, OUTER_RADIUS = 0.2, 4.0e5  # of V; m
ALOFT_WIND = 1.2  # of the vortex at 850 hPa over that at 10 m
REACH = 4.0  # radii beyond which the mark is left out
CATEGORIES = np.array([34, 64, 83, 96, 113, 137])  # kt: tropical storm, then Saffir–Simpson 1–5
TRUTH = ("potential_intensity", "shear", "chi", "m", "ventilation_noise")  # hidden; the rest is as in best tracks
MARKED = ("u10", "v10", "msl", "u850", "v850")


@dataclass(frozen=True)
class Weather:
    """The hidden columns of a planet, from which the storms follow.

    Attributes:
        table: Columns at the beginning of every day and at the end of the last, (days + 1, columns).
        first: Day with which each year begins, and the day after the last, (years + 1,).
        first_year: The calendar year of the first row.
    """

    table: np.ndarray
    first: np.ndarray
    first_year: int

    def at(self, step: np.ndarray) -> np.ndarray:
        """Return the columns at 6-hourly steps, linear within a day; held beyond the end, float64 (…, columns)."""
        day, quarter = np.divmod(np.minimum(step, 4 * (len(self.table) - 1)), 4)
        share = quarter[..., None] / 4
        after = np.minimum(day + 1, len(self.table) - 1)
        return self.table[day].astype(np.float64) * (1 - share) + self.table[after] * share


class Storms:
    """All storms of one history of the planet.

    Args:
        weather: Its hidden columns.
        seed: Of the planet.
        rate: Mean number of storms a year.
        fast: Parameters of the intensity.
    """

    def __init__(self, weather: Weather, seed: int, rate: float, fast: Fast | None = None) -> None:
        self.weather, self.seed, self.rate, self.fast = weather, seed, rate, fast or Fast()
        self.surroundings = surroundings()

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row a storm and record, with `step` (6-hourly, from the planet's start); see Planet.tracks."""
        years = range(len(self.weather.first) - 1)
        table = pd.concat([self._year(year) for year in years], ignore_index=True)
        last = 4 * int(self.weather.first[-1]) - 1
        return table[table["step"] <= last].reset_index(drop=True)

    def _year(self, year: int) -> pd.DataFrame:
        """Return the storms born in a year to their ends, also where those lie beyond the planet's years."""
        step, lat, lon = self._births(year)
        birth_lat, birth_lon, count = lat, lon, len(step)
        rng = np.random.default_rng([self.seed, 13, year])
        v = FIRST_WIND * np.exp(0.12 * rng.standard_normal(count))
        m = np.clip(0.62 + 0.12 * rng.standard_normal(count), 0.2, 0.95)
        x = self.fast.ventilation_noise * rng.standard_normal(count)
        wander = WANDER * rng.standard_normal((2, count))
        keep = np.exp(-HOURS / WANDER_MEMORY)
        alive = np.ones(count, bool)
        here = self.surroundings.at(self.weather.at(step), lat, lon)
        rows = []
        for age in range(AGES):
            alive &= (v >= WEAKEST) & (np.abs(lat) <= FAREST) & (np.abs(lat) >= NEAREST)
            rows.append(np.stack([np.arange(count), step + age, lat, lon, v, m, x, *here.columns()])[:, alive])
            noise = rng.standard_normal((SUBSTEPS, NOISES, count))
            east, north = here.steering()
            drift = DRIFT[0] + wander[0], DRIFT[1] * np.sign(lat) + wander[1]
            degrees = np.rad2deg(HOURS * 3600 / RADIUS)
            lon = (lon + degrees * (east + drift[0]) / np.cos(np.deg2rad(lat))) % 360
            lat = np.clip(lat + degrees * (north + drift[1]), -89.0, 89.0)
            wander = keep * wander + WANDER * np.sqrt(1 - keep**2) * rng.standard_normal((2, count))
            after = self.surroundings.at(self.weather.at(step + age + 1), lat, lon)
            v, m, x = self.fast.advance((v, m, x), here.forcing(), after.forcing(), noise)
            here = after
        names = ["number", "step", "lat", "lon", "v", "m", "ventilation_noise", *Air.NAMES]
        table = pd.DataFrame(np.concatenate(rows, axis=1).T, columns=names)
        table = table.sort_values(["number", "step"], kind="stable", ignore_index=True)
        number = table.pop("number").to_numpy(int)
        table.insert(0, "storm", (self.weather.first_year + year) * 1000 + number + 1)
        table.insert(1, "basin", basins(birth_lat, birth_lon)[number])
        return table.astype({"step": int, "over_water": bool})

    def _births(self, year: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return step, latitude and longitude of the storms born in a year, in the order of time."""
        rng = np.random.default_rng([self.seed, 12, year])
        count = rng.poisson(self.rate / ACCEPTED)
        first, last = (4 * int(day) for day in self.weather.first[year : year + 2])
        step = np.sort(rng.integers(first, last, count))
        low, high = np.sin(np.deg2rad(TROPICS))
        lat = np.rad2deg(np.arcsin(rng.uniform(low, high, count))) * rng.choice([-1, 1], count)
        lon = rng.uniform(0, 360, count)
        dice = rng.uniform(0, 1, count)
        kept = np.zeros(count, bool)
        for part in np.array_split(np.arange(count), max(1, count // 256)):
            air = self.surroundings.at(self.weather.at(step[part]), lat[part], lon[part])
            kept[part] = dice[part] < air.genesis(lat[part])
        return step[kept], lat[kept], lon[kept]

    def tracks(self, time: np.ndarray) -> pd.DataFrame:
        """Return the table as `Planet.tracks` describes it, given the times of the planet's steps."""
        table = self.table
        out = table[["storm", "basin", "lat", "lon", "over_water", *TRUTH]].copy()
        out.insert(2, "time", time[table["step"].to_numpy()])
        out.insert(5, "wind_kt", table["v"] / KNOT)
        out.insert(6, "category", categories(out["wind_kt"].to_numpy()))
        return out

    def forecast(
        self, samples: pd.DataFrame, time: np.ndarray, threshold_kt: float, hours: int, members: int, seed: int
    ) -> np.ndarray:
        """Return what `Planet.intensification_forecast` describes, given the times of the planet's steps."""
        if hours < HOURS or hours % HOURS:
            raise _mistake(f"hours to be a multiple of {HOURS}", hours)
        absent = [name for name in ("storm", "time") if name not in samples]
        if absent:
            raise _mistake("samples to be a table with storm and time", list(samples.columns))
        table, ahead = self.table, hours // HOURS
        known = pd.MultiIndex.from_arrays([table["storm"], time[table["step"].to_numpy()]])
        asked = [samples["storm"], samples["time"].astype("datetime64[ns]")]
        rows = known.get_indexer(pd.MultiIndex.from_arrays(asked))
        if (rows < 0).any():
            first = samples.iloc[int(np.argmax(rows < 0))]
            raise _mistake("samples to be records of the tracks", f"storm {first['storm']} at {first['time']}")
        last = np.minimum(rows + ahead, len(table) - 1)
        storm = table["storm"].to_numpy()
        short = (storm[last] != storm[rows]) | (last != rows + ahead)
        if short.any():
            raise _mistake(
                f"storms that last {hours} h more",
                f"{short.sum()} that do not (the first is storm {storm[rows[short][0]]}); leave them out",
            )
        potential, ventilation = table["potential_intensity"].to_numpy(), (table["shear"] * table["chi"]).to_numpy()
        chance = np.empty(len(rows))
        for begin in range(0, len(rows), 256):
            part = slice(begin, begin + 256)
            at = rows[part]
            noise = np.stack([self._redrawn(int(row), ahead, members, seed) for row in at], axis=-1)
            v, m, x = (np.tile(table[name].to_numpy()[at], (members, 1)) for name in ("v", "m", "ventilation_noise"))
            begun, alive = v, np.ones(v.shape, bool)
            for k in range(ahead):
                before, after = ((potential[at + j], ventilation[at + j]) for j in (k, k + 1))
                v, m, x = self.fast.advance((v, m, x), before, after, noise[k])
                alive &= v >= WEAKEST
            risen = alive & (v - begun >= threshold_kt * KNOT)
            chance[part] = risen.sum(axis=0) / np.maximum(alive.sum(axis=0), 1)
        return chance

    def _redrawn(self, row: int, ahead: int, members: int, seed: int) -> np.ndarray:
        """Return noise of one record: the same whatever else is asked, (records, substeps, noises, members)."""
        storm, step = int(self.table["storm"].iloc[row]), int(self.table["step"].iloc[row])
        rng = np.random.default_rng([self.seed, 14, seed, storm, step])
        return rng.standard_normal((ahead, SUBSTEPS, NOISES, members), dtype=np.float32)

    def mark(self, name: str, grid: LatLonGrid, first: int, steps: int) -> np.ndarray:
        """Return what the storms add to a field at the steps from `first` on, (steps, rows, columns), float32."""
        out = np.zeros((steps, grid.shape[0] * grid.shape[1]), np.float32)
        inside = self.table["step"].between(first, first + steps - 1)
        rows = self.table.loc[inside, ["step", "lat", "lon", "v"]].to_numpy()
        lat, lon = (axis.ravel() for axis in np.meshgrid(grid.lat, grid.lon, indexing="ij"))
        cells = _unit(lat, lon)
        for part in np.array_split(rows, max(1, len(rows) * len(lat) // 2**22)):
            step, at_lat, at_lon, v = part.T
            cosine = _unit(at_lat, at_lon) @ cells.T
            storm, cell = np.nonzero(cosine > np.cos(REACH * OUTER_RADIUS / RADIUS))
            distance = np.arccos(np.minimum(cosine[storm, cell], 1)) * RADIUS
            value = vortex(name, lat[cell], lon[cell], at_lat[storm], at_lon[storm], distance, v[storm])
            np.add.at(out, (step[storm].astype(int) - first, cell), value.astype(np.float32))
        return out.reshape(steps, *grid.shape)


class Air:
    """What storms feel at some places and times.

    Attributes:
        potential: Potential intensity, m/s; 0 over land.
        shear: Of the wind from 850 to 200 hPa, m/s.
        chi: Saturation deficit.
        water: Whether the place is at sea.
        sst: K.
        humidity: At 700 hPa, %.
        wind: u850, v850, u200, v200, m/s.
    """

    def __init__(self, values: dict[str, np.ndarray], water: np.ndarray) -> None:
        self.wind, self.water, self.sst = values, water, values["sst"]
        self.humidity = np.clip(values["r700"], DRIEST, WETTEST)
        self.shear = np.hypot(values["u200"] - values["u850"], values["v200"] - values["v850"])
        self.chi = saturation_deficit(self.humidity)
        self.potential = np.where(water, potential_intensity(self.sst), 0.0)

    NAMES = ("potential_intensity", "shear", "chi", "over_water")

    def columns(self) -> list[np.ndarray]:
        """Return what the table keeps of it."""
        return [self.potential, self.shear, self.chi, self.water]

    def forcing(self) -> tuple[np.ndarray, np.ndarray]:
        """Return Vp and χ S."""
        return self.potential, self.chi * self.shear

    def steering(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the eastward and northward wind that carries a storm, without its drift, m/s."""
        east, north = (
            sum(share * self.wind[name] for name, share in STEERING.items() if name[0] == part) for part in "uv"
        )
        return np.asarray(east), np.asarray(north)

    def genesis(self, lat: np.ndarray) -> np.ndarray:
        """Return the chance that a place thrown here becomes a storm."""
        warm = 1 / (1 + np.exp(-(self.sst - 300.4) / 0.5))  # 27.25 °C
        calm = np.exp(-((self.shear / 13) ** 2))
        moist = np.clip((self.humidity - 35) / 45, 0, 1)
        spin = np.clip((np.abs(lat) - TROPICS[0]) / 8, 0, 1)
        return warm * calm * moist * spin * self.water


class Surroundings:
    """Air at any place, from the hidden columns: patterns on a grid of their own, linear in between."""

    NAMES = ("sst", "u850", "v850", "u200", "v200", "r700")

    def __init__(self) -> None:
        self.grid = LatLonGrid(np.arange(48.75, -50, -2.5), np.arange(0, 360, 2.5))
        geography = Geography(self.grid)
        surface = geography.patterns()
        upper = patterns(geography, surface)
        every = len(upper["u850"])
        self._patterns = np.zeros((*self.grid.shape, len(self.NAMES), every), np.float32)
        for k, name in enumerate(self.NAMES):
            values = upper.get(name, surface.get(name))
            assert values is not None
            self._patterns[:, :, k, : len(values)] = np.moveaxis(values, 0, -1)
        shore = LatLonGrid(np.arange(49.5, -50, -1.0), np.arange(0.5, 360, 1.0))
        self._land = Geography(shore).land

    def at(self, columns: np.ndarray, lat: np.ndarray, lon: np.ndarray) -> Air:
        """Return the air at places (places,) with the columns of their times (places, columns)."""
        row = np.clip((self.grid.lat[0] - lat) / 2.5, 0, len(self.grid.lat) - 1.001)
        column = (lon % 360) / 2.5
        values = np.zeros((len(lat), len(self.NAMES)))
        top, left = np.floor(row).astype(int), np.floor(column).astype(int)
        for down in (0, 1):
            for right in (0, 1):
                weight = np.abs(1 - down - (row - top)) * np.abs(1 - right - (column - left))
                there = self._patterns[top + down, (left + right) % len(self.grid.lon)]
                values += weight[:, None] * (there * columns[:, None, :]).sum(axis=-1)
        below = np.clip(np.floor(50 - lat).astype(int), 0, len(self._land) - 1)
        land = self._land[below, np.floor(lon % 360).astype(int) % 360]
        return Air(dict(zip(self.NAMES, values.T, strict=True)), ~land)


@lru_cache(maxsize=1)
def surroundings() -> Surroundings:
    """Return the one that all planets share: it depends on the geography alone."""
    return Surroundings()


def vortex(
    name: str,
    lat: np.ndarray,
    lon: np.ndarray,
    at_lat: np.ndarray,
    at_lon: np.ndarray,
    distance: np.ndarray,
    v: np.ndarray,
) -> np.ndarray:
    """Return what a storm adds to the field `name` at a place: a wind a r/R e^{(1 - r²/R²)/2}, or its pressure.

    The pressure is the integral of ρ (wind²/r + |f| wind) from far away inwards, with f at the storm.

    Args:
        name: One of MARKED.
        lat, lon: Of the place.
        at_lat, at_lon: Of the storm.
        distance: Between them, m.
        v: Largest wind of the storm, m/s.
    """
    a, ratio = OUTER_WIND * v, distance / OUTER_RADIUS
    if name == "msl":
        coriolis = 2 * ROTATION * np.abs(np.sin(np.deg2rad(at_lat)))
        centrifugal = a**2 / 2 * np.exp(1 - ratio**2)
        return -DENSITY * (centrifugal + coriolis * a * OUTER_RADIUS * np.exp((1 - ratio**2) / 2))
    speed = a * ratio * np.exp((1 - ratio**2) / 2) * (ALOFT_WIND if name.endswith("850") else 1.0)
    # the direction away from the storm, at the place; turned by a quarter it is the wind's
    y, x, at_y = np.deg2rad(lat), np.deg2rad(lon - at_lon), np.deg2rad(at_lat)
    east = np.sin(x) * np.cos(at_y)
    north = np.sin(y) * np.cos(at_y) * np.cos(x) - np.cos(y) * np.sin(at_y)
    length = np.hypot(east, north)
    cyclonic = np.where(at_lat >= 0, 1.0, -1.0)  # anticlockwise in the north
    return speed * cyclonic * (-north if name.startswith("u") else east) / np.where(length > 0, length, 1.0)


def basins(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Return the basin of places: NA, EP, WP and NI in the north, SI, SP and SA in the south (IBTrACS's codes)."""
    america = 262 + 0.9 * (27 - lat)  # the coast between the two oceans, which runs to the south-east
    north = [(lon >= america) | (lon < 30), lon >= 180, lon >= 100]
    south = [(lon >= 290) | (lon < 15), lon >= 135]
    return np.where(lat >= 0, np.select(north, ["NA", "EP", "WP"], "NI"), np.select(south, ["SA", "SP"], "SI"))


def categories(wind_kt: np.ndarray) -> np.ndarray:
    """Return -1 (depression), 0 (tropical storm) or 1–5 (Saffir–Simpson) of winds, kt."""
    return np.searchsorted(CATEGORIES, wind_kt, side="right") - 1


def _mistake(expected: str, got: object) -> EarthSSLError:
    return EarthSSLError(f"planet.intensification_forecast: expected {expected}, got {got}")


def _unit(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    y, x = np.deg2rad(lat), np.deg2rad(lon)
    return np.stack([np.cos(y) * np.cos(x), np.cos(y) * np.sin(x), np.sin(y)], axis=1)
