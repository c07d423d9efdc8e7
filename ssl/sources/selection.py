"""Selection: which part of a source is wanted, checked before any file is opened."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ..common.errors import EarthSSLError
from ..fields.variables import Variable


@dataclass(frozen=True)
class Selection:
    """What to take from a source; the same options for all of them.

    Attributes:
        variables: Names to take: canonical (`sst`, `z500`), aliases (`2m_temperature`), or a variable on
            levels without its level (`z`: all levels, or those in `levels`). None takes all known ones.
        levels: Pressure levels, hPa, for the variables named without a level. None takes all.
        time: First and last time, both included, UTC; either may be None. A part of a date means all of
            it: ("1980", "2010-06") ends with 30 June 2010.
        every: Keep the times that are multiples of this step since 1970-01-01, such as "6h" or "1D".
        member: Ensemble member to take, by its label.
        region: South, north, west, east in degrees, borders included. None takes everything.
        coarsen: Average blocks of this many cells along both axes, weighted by area over valid cells.
        resolution: Average onto cells of so many degrees whose edges are multiples of that, weighted by the
            area shared, over valid cells; for grids that whole blocks of cells do not fit. Done before `region`.
        grid: Folder of a checkpoint, a run or a store (or a JSON file with `grid`): average onto its cells, weighted by
            the area shared; instead of `coarsen`, `resolution` and `region`.
        least_valid: Share of an averaged cell's area that must hold values, or else it is missing.
        units: Units by variable, where the file says nothing or something wrong.
        missing: Value or values that mean missing, by variable, in the file's units: for fills that it does not
            declare.
        rename: Canonical name by name in the file, where the file's own says too little.
    """

    variables: tuple[str, ...] | None = None
    levels: tuple[int, ...] | None = None
    time: tuple[str | None, str | None] | None = None
    every: str | None = None
    member: int | str | None = None
    region: tuple[float, float, float, float] | None = None
    coarsen: int = 1
    resolution: float | None = None
    grid: str | None = None
    least_valid: float = 0.5
    units: Mapping[str, str] = field(default_factory=dict)
    rename: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.variables is not None:
            names = (self.variables,) if isinstance(self.variables, str) else tuple(self.variables)
            if not all(isinstance(name, str) for name in names):
                raise EarthSSLError(f"option variables: expected names, got {list(names)}")
            _unique("variables", names)
            object.__setattr__(self, "variables", names)
        if self.levels is not None:
            object.__setattr__(self, "levels", _levels(self.levels))
        if self.time is not None:
            object.__setattr__(self, "time", _period(self.time))
        if self.region is not None:
            object.__setattr__(self, "region", _region(self.region))
        if not isinstance(self.coarsen, int) or isinstance(self.coarsen, bool) or self.coarsen < 1:
            raise EarthSSLError(f"option coarsen: expected a whole number of cells ≥ 1, got {self.coarsen!r}")
        if self.resolution is not None and not _divides_a_circle(self.resolution):
            raise EarthSSLError(
                f"option resolution: expected degrees of which whole cells make 180, such as 5, got {self.resolution!r}"
            )
        if self.grid is not None and (self.coarsen, self.resolution, self.region) != (1, None, None):
            raise EarthSSLError("option grid: expected no coarsen, resolution or region beside it; leave these out")
        if not 0 < self.least_valid <= 1:
            raise EarthSSLError(f"option least_valid: expected a share in (0, 1], got {self.least_valid!r}")
        if self.every is not None:
            self.step()
        if isinstance(self.units, Mapping):  # `siconc: 1` is a number in YAML
            plain = {name: str(one) if type(one) in (int, float) else one for name, one in self.units.items()}
            object.__setattr__(self, "units", plain)
        object.__setattr__(self, "missing", _missing(self.missing))
        for name in ("units", "rename"):
            given = getattr(self, name)
            if not isinstance(given, Mapping) or not all(isinstance(text, str) for text in given.values()):
                raise EarthSSLError(f"option {name}: expected a mapping such as {{sst: …}}, got {given!r}")

    def step(self) -> np.timedelta64:
        """Return `every` as a duration.

        Raises:
            EarthSSLError: If it is none, or not positive.
        """
        text = re.sub(r"(?<=\d)d", "D", self.every) if isinstance(self.every, str) else ""
        if not text.startswith(("P", "-P")):  # of ISO, as PT6H; else pandas is giving the capital up
            text = re.sub(r"(?<=\d)H", "h", text)
        try:  # pandas takes a bare number for nanoseconds
            step = pd.Timedelta(text) if re.search(r"[A-Za-z]|\d:\d+:\d", text) else pd.Timedelta(0)
        except ValueError:
            step = pd.Timedelta(0)
        if not step > pd.Timedelta(0):
            number = re.fullmatch(r"\s*(\d+(\.\d+)?)\s*", str(self.every))
            hint = f"; a number needs a unit: '{number[1]}h', '{number[1]}D'" if number else ""
            raise EarthSSLError(f"option every: expected a duration such as '6h' or '1D', got {self.every!r}{hint}")
        return step.to_timedelta64().astype("timedelta64[ns]")

    def units_of(self, variable: Variable, raw: str, attrs: Mapping[str, Any]) -> str | None:
        """Return the units of a variable, called `raw` in the file: those of the option, or else of its attributes."""
        given = [self.units[name] for name in (variable.name, variable.base, raw) if name in self.units]
        return given[0] if given else attrs.get("units")

    def missing_of(self, variable: Variable, raw: str) -> tuple[float, ...]:
        """Return the values that mean missing in a variable, called `raw` in the file."""
        given = [self.missing[name] for name in (variable.name, variable.base, raw) if name in self.missing]
        return given[0] if given else ()

    def steps(self, times: np.ndarray, where: str) -> slice | np.ndarray:
        """Return which of the (unsorted) times to take, in ascending order: a slice where one does.

        Raises:
            EarthSSLError: If a time occurs twice, or if none is left.
        """
        if not len(times):
            raise EarthSSLError(
                f"{where}: expected fields at some times, got an axis of time without any; fetch it again"
            )
        order = np.argsort(times, kind="stable")
        ordered = times[order]
        again = np.flatnonzero(ordered[1:] == ordered[:-1])
        if len(again):
            raise EarthSSLError(
                f"{where}: expected every time once, got {_text(ordered[again[0]])} "
                f"{int((times == ordered[again[0]]).sum())} times ({len(again)} duplicates in all); "
                "remove the copies, or give each file once"
            )
        keep = np.ones(len(ordered), bool)
        if self.time is not None:
            # pandas reads a part of a date as all of it, at either end
            inside = pd.DatetimeIndex(ordered).slice_indexer(_utc(self.time[0]), _utc(self.time[1]))  # type: ignore[arg-type]
            keep[:] = False
            keep[inside] = True
        if self.every is not None:
            keep &= ordered.astype("datetime64[ns]").astype(np.int64) % self.step().astype(np.int64) == 0
        if not keep.any():
            span = f"{_text(ordered[0])} to {_text(ordered[-1])}"
            wanted = f"time {self.time}, every {self.every}" if self.every else f"time {self.time}"
            raise EarthSSLError(f"{where}: no step is left by the options ({wanted}); the source holds {span}")
        return _as_slice(order[keep])


def _number(value: Any) -> Any:
    """Return the number that a text is, such as 1e20, which YAML takes for one; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _missing(given: Any) -> dict[str, tuple[float, ...]]:
    found = {}
    pairs: Iterable[tuple[Any, Any]] = given.items() if isinstance(given, Mapping) else [("", None)]
    for name, values in pairs:
        listed = [_number(value) for value in (values if isinstance(values, (list, tuple)) else [values])]
        if not all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in listed):
            raise EarthSSLError(f"option missing: expected values by variable such as {{t2m: -9999}}, got {given!r}")
        found[str(name)] = tuple(float(value) for value in listed)
    return found


def _divides_a_circle(degrees: float) -> bool:
    return 0 < degrees <= 90 and abs(180 / degrees - round(180 / degrees)) < 1e-6


def _as_slice(index: np.ndarray) -> slice | np.ndarray:
    """Return an equivalent slice where the indices are evenly spaced and ascend: it is read much faster."""
    step = int(index[1] - index[0]) if len(index) > 1 else 1
    if step > 0 and (np.diff(index) == step).all():
        return slice(int(index[0]), int(index[-1]) + 1, step)
    return index


def _text(time: np.datetime64) -> str:
    return str(pd.Timestamp(time))


def _unique(option: str, names: Iterable[Any]) -> None:
    names = list(names)
    if not names or len(set(names)) < len(names):
        raise EarthSSLError(f"option {option}: expected at least one, each once, got {names}")


def _levels(levels: Any) -> tuple[int, ...]:
    given = [levels] if isinstance(levels, (int, float)) else list(levels)
    _unique("levels", given)
    if not all(isinstance(level, (int, float)) and level == int(level) and level > 0 for level in given):
        raise EarthSSLError(f"option levels: expected pressure levels in whole hPa, got {given}")
    return tuple(int(level) for level in given)


def _period(period: Any) -> tuple[str | None, str | None]:
    if isinstance(period, str) or len(period) != 2:
        raise EarthSSLError(f"option time: expected a first and a last time, such as [1980, 2010-06], got {period!r}")
    edges = tuple(None if edge is None else str(edge) for edge in period)
    first, last = (None if edge is None else pd.Timestamp(_utc(edge) or edge) for edge in edges)
    if first is not None and last is not None and first > last:
        raise EarthSSLError(f"option time: expected the first time before the last, got {edges[0]} after {edges[1]}")
    return edges[0], edges[1]


def _utc(edge: str | None) -> str | None:
    """Return the text of a time without its zone, moved to UTC."""
    if edge is None:
        return None
    try:
        stamp = pd.Timestamp(edge)
    except ValueError:
        raise EarthSSLError(
            f"option time: expected a time such as '1980-01' or '1980-01-01T06', got '{edge}'"
        ) from None
    return edge if stamp.tzinfo is None else stamp.tz_convert("UTC").tz_localize(None).isoformat()


def _region(region: Any) -> tuple[float, float, float, float]:
    try:
        south, north, west, east = (float(edge) for edge in region)
    except (TypeError, ValueError):
        raise EarthSSLError(f"option region: expected [south, north, west, east] in degrees, got {region!r}") from None
    if not -90 <= south < north <= 90:
        raise EarthSSLError(f"option region: expected -90 ≤ south < north ≤ 90, got {south:g}…{north:g}")
    if not -180 <= west < east <= 360:
        raise EarthSSLError(
            f"option region: expected -180 ≤ west < east ≤ 360, got {west:g}…{east:g}; "
            "a box across 180°E is written such as 160…290"
        )
    return south, north, west, east
