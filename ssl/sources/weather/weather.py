"""The source `weather`: daily or 12-hourly fields of a synthetic quasi-geostrophic planet, whose true state is known.

Where the synthetic planet of `planet` is a linear map of a few columns, this one has weather: jets, fronts of its own
making, blocking, and small errors that double in days. Always label what it gives as synthetic.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr

from ...common.errors import nearest
from ...common.files import cache_folder
from ...fields.grid import LatLonGrid
from ..planet.options import check_names, check_start, mistake
from ..planet.recorded import DYNAMICS
from ..regrid import region_of
from ..selection import Selection
from . import output
from .history import History, Plan
from .sphere import SIZES, Sphere
from .vertical import LEVELS, ROTATION, stream_of
from .world import World, world

_mistake = partial(mistake, "weather")
STEPS = {"daily": 1, "12-hourly": 2}  # kept states a day
EAGER_BYTES = 256 * 2**20  # above this the fields are computed when they are read
ORIGIN = np.datetime64("2000-01-01")  # the season is counted from it


@dataclass(frozen=True)
class WeatherConfig:
    """Options of the weather planet.

    Attributes:
        years: Length, whole years.
        start: First day, a 1 January ("1900-01-01").
        step: "daily" (values at 00 UTC) or "12-hourly".
        seed: Which history of the world.
        world: Which world of the family: 0 is the standard one, every other number has other jets, seasons, friction,
            relaxation, radii of deformation and mountains (`world.world`).
        truncation: 21 (32×64 grid) or 42 (64×128, about twenty times as slow).
        members: Up to so many members run side by side and are laid end to end: each covers whole years, and where one
            follows another the weather jumps (`Weather.seams`). 1 is one unbroken history, but slow.
        cache: Folder for the states; None is the usual one for downloads, see `cache_folder`.

    Raises:
        EarthSSLError: If an option is out of range.
    """

    years: int = 20
    start: str = "1900-01-01"
    step: str = "daily"
    seed: int = 0
    world: int = 0
    truncation: int = 21
    members: int = 16
    cache: str | None = None

    def __post_init__(self) -> None:
        if self.step not in STEPS:
            raise _mistake("step", f"one of {', '.join(STEPS)}", self.step, nearest(str(self.step), STEPS))
        if self.truncation not in SIZES:
            raise _mistake("truncation", "21 or 42", self.truncation)
        for name, least in (("years", 1), ("members", 1), ("seed", 0), ("world", 0)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < least:
                raise _mistake(name, f"a whole number from {least}", value)
        check_start("weather", self.start, self.years)


class Weather:
    """One history of one weather planet.

    Args:
        config: Its options.
        parameters: Of the world; None takes those of `config.world`.
    """

    def __init__(self, config: WeatherConfig | None = None, parameters: World | None = None) -> None:
        self.config = config or WeatherConfig()
        self.world = parameters or world(self.config.world)
        self.sphere = Sphere(self.config.truncation)
        self.grid = LatLonGrid(self.sphere.lat, self.sphere.lon)
        self._span = -(-self.config.years // self.config.members)  # years of each member
        firsts = range(0, self.config.years, self._span)
        days = [int((self._year(min(k + self._span, self.config.years)) - self._year(k)).astype(int)) for k in firsts]
        self.history = History(
            Plan(
                self.world,
                self.config.truncation,
                self.config.seed,
                tuple(int((self._year(k) - ORIGIN).astype(int)) for k in firsts),
                max(days),
                STEPS[self.config.step],
            ),
            cache_folder(self.config.cache) / "weather",
        )

    @property
    def variables(self) -> dict[str, tuple[str, str, str]]:
        """Units, long name and CF standard name of every variable."""
        return output.VARIABLES

    @cached_property
    def time(self) -> np.ndarray:
        """Times of the fields, datetime64[ns], shape (times,)."""
        step = np.timedelta64(24 // STEPS[self.config.step], "h")
        first, last = (self._year(k).astype("datetime64[h]") for k in (0, self.config.years))
        return np.arange(first, last, step).astype("datetime64[ns]")

    @property
    def seams(self) -> np.ndarray:
        """Times at which another member takes over, so that the weather jumps, datetime64[ns]."""
        later = range(self._span, self.config.years, self._span)
        return np.array([self._year(k) for k in later], dtype="datetime64[ns]")

    def record(self) -> dict[str, Any]:
        """Return the options as a dataset records them, without the cache, which changes nothing."""
        options = dataclasses.asdict(self.config)
        del options["cache"]
        return {"dynamics": DYNAMICS, **options}

    def states(self, times: Any) -> np.ndarray:
        """Return the true states at some of the planet's times: potential vorticity (time, level, known), float32.

        Packed coefficients (`Sphere.unpacked`) without f and mountains, in turnings of the Earth.

        Raises:
            EarthSSLError: If a time is none of the planet's.
        """
        wanted = np.atleast_1d(np.asarray(times, dtype="datetime64[ns]"))
        at = np.searchsorted(self.time, wanted)
        wrong = (at == len(self.time)) | (self.time[np.minimum(at, len(self.time) - 1)] != wanted)
        if wrong.any():
            raise _mistake("times", f"steps within {self.time[0]}…{self.time[-1]}", str(wanted[wrong][0]))
        firsts = np.searchsorted(self.time, np.concatenate([self.time[:1], self.seams]))  # of the members
        members = np.searchsorted(firsts, at, side="right") - 1
        found = np.empty((len(wanted), 3, len(self.sphere.known[0])), np.float32)
        for member in np.unique(members):
            rows = members == member
            found[rows] = self.history.states(int(member), at[rows] - firsts[member])
        return found

    def streams(self, times: Any) -> np.ndarray:
        """Return the true stream functions at some of its times, (time, level, known), in radius² × turning."""
        return stream_of(self.sphere, self.world, self.states(times))

    def fields(self, streams: np.ndarray, name: str) -> np.ndarray:
        """Return a variable (…, row, column), canonical units, of stream functions (…, level, known)."""
        self._check((name,))
        return output.fields(self.sphere, streams, name)

    def dataset(self, variables: Sequence[str] | None = None) -> xr.Dataset:
        """Return the fields: dims (time, lat, lon), float32, canonical names and units.

        Computed at once up to 256 MiB, else lazy (dask) in blocks of one year; the model runs when they are read.

        Args:
            variables: Some of them; None takes all.

        Raises:
            EarthSSLError: If there is no such variable.
        """
        names = tuple(variables or self.variables)
        self._check(names)
        shape = (len(self.time), *self.grid.shape)
        lazy = 4 * len(names) * int(np.prod(shape)) > EAGER_BYTES
        arrays = {}
        for name in names:
            units, long_name, standard_name = self.variables[name]
            blocks = range(self.config.years)
            if lazy:
                part = dask.delayed(self._block)
                data = da.concatenate(
                    [da.from_delayed(part(name, year), (self._count(year), *shape[1:]), np.float32) for year in blocks]
                )
            else:
                data = np.concatenate([self._block(name, year) for year in blocks])
            attrs = {"units": units, "long_name": long_name, "standard_name": standard_name}
            arrays[name] = (("time", "lat", "lon"), data, attrs)
        attrs = {
            "source": "weather planet (synthetic)",
            "licence": "CC0",
            "citation": "earthssl synthetic weather planet after Marshall & Molteni (1993), "
            "doi:10.1175/1520-0469(1993)050<1792:TADUOP>2.0.CO;2; not observations",
            "planet": json.dumps({**self.record(), "parameters": dataclasses.asdict(self.world)}),
            "seams": json.dumps([str(seam.astype("datetime64[D]")) for seam in self.seams]),
        }
        coords = {"time": self.time, "lat": self.grid.lat, "lon": self.grid.lon}
        return xr.Dataset(arrays, coords, attrs)

    def hidden(self) -> xr.Dataset:
        """Return the hidden truth: `potential_vorticity` (time, level, coefficient), s-1, lazy (dask), a year a block.

        Packed coefficients without f and mountains; `component` and `wavenumber` say which harmonic each belongs to.
        """
        part, blocks = dask.delayed(lambda year: self._states(year) * np.float32(ROTATION)), range(self.config.years)
        size = (3, len(self.sphere.known[0]))
        data = da.concatenate([da.from_delayed(part(year), (self._count(year), *size), np.float32) for year in blocks])
        component, wavenumber = self.sphere.known
        coords = {
            "time": self.time,
            "level": list(LEVELS),
            "component": ("coefficient", component),
            "wavenumber": ("coefficient", wavenumber),
        }
        attrs = {"units": "s-1", "long_name": "relative quasi-geostrophic potential vorticity"}
        fields = {"potential_vorticity": (("time", "level", "coefficient"), data, attrs)}
        return xr.Dataset(fields, coords, {"source": "weather planet (synthetic)"})

    def _check(self, names: Sequence[str]) -> None:
        for name in names:
            if name not in self.variables:
                raise _mistake("variables", f"some of {', '.join(self.variables)}", name, nearest(name, self.variables))

    def _block(self, name: str, year: int) -> np.ndarray:
        """Fields of one year, (times, rows, columns), float32."""
        streams = stream_of(self.sphere, self.world, self._states(year))
        return output.fields(self.sphere, streams, name)

    def _states(self, year: int) -> np.ndarray:
        member = year // self._span
        first = self._first(year) - self._first(member * self._span)
        return self.history.states(member, np.arange(first, first + self._count(year)))

    def _first(self, year: int) -> int:
        """Index of a year's first step among all times."""
        return int((self._year(year) - self._year(0)).astype(int)) * STEPS[self.config.step]

    def _year(self, year: int) -> np.datetime64:
        """1 January of a year counted from the start, in days."""
        return (np.datetime64(self.config.start, "Y") + year).astype("datetime64[D]")

    def _count(self, year: int) -> int:
        """Steps in a year."""
        return self._first(year + 1) - self._first(year)


def open_weather(
    variables: Sequence[str] | None = None, region: Sequence[float] | None = None, **options: Any
) -> xr.Dataset:
    """Return the dataset of a weather planet with the given WeatherConfig options, all or some of its variables.

    `region` (south, north, west, east, degrees) keeps the cells inside a box that does not cross 0°E.

    Raises:
        EarthSSLError: If an option or a variable is unknown or out of range.
    """
    check_names("weather", WeatherConfig, options, more=("variables", "region"))
    if isinstance(variables, str):
        variables = (variables,)
    dataset = Weather(WeatherConfig(**options)).dataset(variables)
    if region is not None:
        dataset = region_of(dataset, Selection(region=region).region, "weather")  # type: ignore[arg-type]
    return dataset
