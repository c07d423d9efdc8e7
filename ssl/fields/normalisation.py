"""Climatology and scale of every variable, fitted on training times only, and the way there and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from ..common.errors import EarthSSLError
from .splits import months_apart

YEAR_DAYS = 365.2425
# A cell whose spread is under this share of its variable's is scaled by the share instead:
# dividing by the tiny spread of sea ice or a dry desert would blow noise up to signal.
FLOOR = 0.1


@dataclass(frozen=True)
class StatisticsConfig:
    """How anomalies are made.

    Attributes:
        climatology: "month" (mean of each calendar month), "hour" (mean and harmonics of the year for
            each hour of the day) or "auto" (month for data by months, seasons and years, else hour).
        harmonics: Harmonics of the year with "hour"; "auto" takes 4 where training spans two years (fewer where
            it holds few dates of the year), else 0.
        scale: "cell" (standard deviation of each cell's anomalies, so that where a cell lies cannot be
            read from how much it varies) or "variable" (one a variable).
    """

    climatology: str = "auto"
    harmonics: int | None = None
    scale: str = "cell"

    def __post_init__(self) -> None:
        if self.climatology not in ("auto", "month", "hour"):
            raise EarthSSLError(f"statistics.climatology: expected auto, month or hour, got '{self.climatology}'")
        if self.scale not in ("cell", "variable"):
            raise EarthSSLError(f"statistics.scale: expected cell or variable, got '{self.scale}'")


@dataclass(frozen=True)
class Calendar:
    """How a climatology depends on time.

    Attributes:
        groups: "month" or "hour": which field of the time picks a row.
        keys: The months (1–12) or hours (0–23) that have a row.
        harmonics: Harmonics of the year in the basis besides the constant.
    """

    groups: str
    keys: tuple[int, ...]
    harmonics: int

    @classmethod
    def chosen(cls, times: np.ndarray, config: StatisticsConfig) -> Calendar:
        """Return the calendar for these training times (datetime64)."""
        groups, harmonics = _choose(times, config)
        return cls(groups, tuple(sorted(set(_group_values(times, groups).tolist()))), harmonics)

    @property
    def size(self) -> int:
        """Terms of the basis."""
        return 1 + 2 * self.harmonics

    def of(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the basis at the times, (times, size), and each time's row, (times,)."""
        return _basis(times, self.harmonics), np.searchsorted(self.keys, _group_values(times, self.groups))


@dataclass(frozen=True)
class Statistics:
    """Climatology as a linear function of the calendar, and the scale of the anomalies.

    Attributes:
        groups: "month" or "hour": which field of the time picks a row of `coefficients`.
        keys: The months (1–12) or hours (0–23) that have a row.
        harmonics: Harmonics of the year in the basis besides the constant.
        coefficients: float32 (keys, 1 + 2 × harmonics, variables, rows, columns), units of the variable;
            NaN where training never saw a valid value.
        scale: float32 (variables, rows, columns), > 0, units of the variable.
        transforms: Of each variable, the `transform_scale` of its table row: where it is not 0, "units of the
            variable" above means those of the transformed one. () for none at all.
    """

    groups: str
    keys: tuple[int, ...]
    harmonics: int
    coefficients: np.ndarray
    scale: np.ndarray
    transforms: tuple[float, ...] = ()

    @property
    def known(self) -> np.ndarray:
        """Mask of the cells that training saw a value in, (variables, rows, columns): False for SST on land."""
        return np.isfinite(self.coefficients[:, 0]).any(0)

    def climatology(self, times: np.ndarray) -> np.ndarray:
        """Return the climatological fields at the times, float32 (times, variables, rows, columns)."""
        rows = self.rows(times)
        if not self.harmonics:
            return self.coefficients[rows, 0]
        basis = _basis(times, self.harmonics).astype(np.float32)
        fields = self.coefficients[rows, 0]
        for row in np.unique(rows):  # term by term: the bits do not depend on how many times are asked for
            steps = np.flatnonzero(rows == row)
            mine = fields[steps]
            for term in range(1, basis.shape[1]):
                mine += basis[steps, term, None, None, None] * self.coefficients[row, term]
            fields[steps] = mine
        return fields

    def normalise(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return (transformed values - climatology) / scale, float32, same shape; NaN stays NaN."""
        return ((transformed(values, self.transforms) - self.climatology(times)) / self.scale).astype(np.float32)

    def denormalise(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return values × scale + climatology, transformed back: the inverse of `normalise`."""
        return restored(values * self.scale + self.climatology(times), self.transforms)

    def extremes(self, far: float) -> tuple[tuple[float, float], ...]:
        """Return the lowest and highest value of each variable within `far` scales of the climatology, in its units.

        Of a variable that training never saw: inf and -inf. Found once for each `far`, one time after the other.
        """
        if far not in self._extremes:
            self._extremes[far] = self._found_extremes(far)
        return self._extremes[far]

    @cached_property
    def _extremes(self) -> dict[float, tuple[tuple[float, float], ...]]:
        return {}

    def _found_extremes(self, far: float) -> tuple[tuple[float, float], ...]:
        days = np.datetime64("2001-01-15") + np.timedelta64(30, "D") * np.arange(12)
        hours = self.keys if self.groups == "hour" else (0,)
        times = np.concatenate([days + np.timedelta64(hour, "h") for hour in hours]).astype("datetime64[ns]")
        if self.groups == "month":
            times = times[np.isin(times.astype("datetime64[M]").astype(int) % 12 + 1, self.keys)]
        away = np.full((1, *self.scale.shape), far, np.float32)
        low, high = np.full(len(self.scale), np.inf), np.full(len(self.scale), -np.inf)
        for time in times[:, None]:
            lowest, highest = (self.denormalise(side, time).reshape(len(low), -1) for side in (-away, away))
            low = np.fmin(low, np.fmin.reduce(lowest, axis=1))
            high = np.fmax(high, np.fmax.reduce(highest, axis=1))
        return tuple(zip(low.tolist(), high.tolist(), strict=True))

    def select(self, positions: Sequence[int]) -> Statistics:
        """Return the statistics of the variables at the positions, in that order."""
        chosen: Any = list(positions)
        transforms = tuple(self.transforms[k] for k in chosen) if self.transforms else ()
        if len(chosen) == 1:  # a view, not a copy
            chosen = slice(chosen[0], chosen[0] + 1)
        return replace(
            self, coefficients=self.coefficients[:, :, chosen], scale=self.scale[chosen], transforms=transforms
        )

    def rows(self, times: np.ndarray) -> np.ndarray:
        """Return the row of `coefficients` of each time.

        Raises:
            EarthSSLError: If training saw no such month or hour.
        """
        values = _group_values(times, self.groups)
        unknown = sorted(set(values.tolist()) - set(self.keys))
        if unknown:
            raise EarthSSLError(
                f"the climatology knows the {self.groups}s {list(self.keys)} of training, got {unknown}; "
                "select times that it knows, or train on data that hold them"
            )
        return np.searchsorted(self.keys, values)

    def to_json(self) -> dict[str, Any]:
        """Return what is not an array, as plain JSON."""
        record: dict[str, Any] = {"groups": self.groups, "keys": list(self.keys), "harmonics": self.harmonics}
        return {**record, "transforms": list(self.transforms)} if any(self.transforms) else record

    @classmethod
    def from_json(cls, record: dict[str, Any], coefficients: np.ndarray, scale: np.ndarray) -> Statistics:
        """Return the statistics of what `to_json` wrote and of the two arrays."""
        return cls(
            record["groups"], tuple(record["keys"]), record["harmonics"], coefficients, scale,
            tuple(record.get("transforms", ())),
        )  # fmt: skip


def transformed(values: np.ndarray, scales: Sequence[float]) -> np.ndarray:
    """Return sign(x) log(1 + |x| / s) for the variables (axis 1) whose scale s is not 0, the others unchanged.

    Precipitation spans five decades and most of it is 0: kept in 16 bits as it is, either its drizzle or its
    extremes would drown. The logarithm is linear below s and gives every decade above it the same room. An error e
    of the transformed value is one of e (s + |x|) of the value: relative for rain, absolute (e s) for none.
    """
    return _scaled(values, scales, lambda x, s: np.sign(x) * np.log1p(np.abs(x) / s))


def restored(values: np.ndarray, scales: Sequence[float]) -> np.ndarray:
    """Return what `transformed` was given."""
    return _scaled(values, scales, lambda y, s: np.sign(y) * s * np.expm1(np.abs(y)))


def _scaled(
    values: np.ndarray, scales: Sequence[float], change: Callable[[np.ndarray, float], np.ndarray]
) -> np.ndarray:
    """Return the values with the variables (axis 1) that have a scale changed, in double precision."""
    if not any(scales):
        return values
    out = np.array(values, np.result_type(values, np.float32))
    for k, s in enumerate(scales):
        if s:
            out[:, k] = change(values[:, k].astype(np.float64), s)
    return out


def _group_values(times: np.ndarray, groups: str) -> np.ndarray:
    if groups == "month":
        return times.astype("datetime64[M]").astype(np.int64) % 12 + 1
    return times.astype("datetime64[h]").astype(np.int64) % 24


def _basis(times: np.ndarray, harmonics: int) -> np.ndarray:
    """Return 1, cos and sin of the year's first harmonics at the times, (times, 1 + 2 × harmonics)."""
    year_start = times.astype("datetime64[Y]").astype(times.dtype)
    phase = 2 * np.pi * ((times - year_start) / np.timedelta64(1, "D")) / YEAR_DAYS
    columns = [np.ones(len(times))]
    for k in range(1, harmonics + 1):
        columns += [np.cos(k * phase), np.sin(k * phase)]
    return np.stack(columns, axis=1)


def _choose(times: np.ndarray, config: StatisticsConfig) -> tuple[str, int]:
    groups = config.climatology
    if groups == "auto":
        groups = "month" if months_apart(times) else "hour"
    if groups == "month":
        return groups, 0
    if config.harmonics is not None:
        return groups, config.harmonics
    span_days = np.diff(times[[0, -1]].astype("datetime64[s]"))[0] / np.timedelta64(1, "D")
    days = (times.astype("datetime64[D]") - times.astype("datetime64[Y]").astype("datetime64[D]")).astype(int)
    dates = len(np.unique(days // 5))  # terms of the year need dates of the year
    return groups, min(4, (dates - 1) // 2) if span_days >= 2 * YEAR_DAYS - 3 else 0
