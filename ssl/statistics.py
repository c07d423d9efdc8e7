"""Climatology and scale of every variable, fitted on training times only, and the way there and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .errors import EarthSSLError
from .progress import track
from .splits import is_monthly

YEAR_DAYS = 365.2425
BYTES_PER_BAND = 256 * 2**20
# A cell whose spread is under this share of its variable's is scaled by the share instead:
# dividing by the tiny spread of sea ice or a dry desert would blow noise up to signal.
FLOOR = 0.1
# A cell seen in one season only (sea ice) does not determine all harmonics: unconstrained, they swing to 1e5 K
# in the months that training never saw there. Such cells (least eigenvalue of the mean products of the basis
# below ILL; 0.5 with the whole year) get a weak ridge on the harmonics, not on the mean.
ILL, RIDGE = 0.1, 1e-4

# Reads time steps [first, last): float array (steps, variables, rows, columns), NaN where missing.
Reader = Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class StatisticsConfig:
    """How anomalies are made.

    Attributes:
        climatology: "month" (mean of each calendar month), "hour" (mean and harmonics of the year for
            each hour of the day) or "auto" (month for monthly data, else hour).
        harmonics: Harmonics of the year with "hour"; "auto" takes 4 where training spans two years, else 0.
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
        rows = self._rows(times)
        if not self.harmonics:
            return self.coefficients[rows, 0]
        basis = _basis(times, self.harmonics)
        return np.einsum("tb,tbchw->tchw", basis.astype(np.float32), self.coefficients[rows])

    def normalise(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return (transformed values - climatology) / scale, float32, same shape; NaN stays NaN."""
        return ((transformed(values, self.transforms) - self.climatology(times)) / self.scale).astype(np.float32)

    def denormalise(self, values: np.ndarray, times: np.ndarray) -> np.ndarray:
        """Return values × scale + climatology, transformed back: the inverse of `normalise`."""
        return restored(values * self.scale + self.climatology(times), self.transforms)

    def select(self, positions: Sequence[int]) -> Statistics:
        """Return the statistics of the variables at the positions, in that order."""
        chosen = list(positions)
        transforms = tuple(self.transforms[k] for k in chosen) if self.transforms else ()
        return replace(
            self, coefficients=self.coefficients[:, :, chosen], scale=self.scale[chosen], transforms=transforms
        )

    def _rows(self, times: np.ndarray) -> np.ndarray:
        values = _group_values(times, self.groups)
        unknown = sorted(set(values.tolist()) - set(self.keys))
        if unknown:
            raise EarthSSLError(
                f"the climatology knows the {self.groups}s {list(self.keys)} of training, got {unknown}; "
                "train on data that hold them"
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
    if not any(scales):
        return values
    out = np.array(values, np.result_type(values, np.float32))
    for k, s in enumerate(scales):
        if s:
            x = values[:, k].astype(np.float64)
            out[:, k] = np.sign(x) * np.log1p(np.abs(x) / s)
    return out


def restored(values: np.ndarray, scales: Sequence[float]) -> np.ndarray:
    """Return what `transformed` was given."""
    if not any(scales):
        return values
    out = np.array(values, np.result_type(values, np.float32))
    for k, s in enumerate(scales):
        if s:
            y = values[:, k].astype(np.float64)
            out[:, k] = np.sign(y) * s * np.expm1(np.abs(y))
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


def fit_statistics(
    read: Reader,
    times: np.ndarray,
    training: np.ndarray,
    area: np.ndarray,
    shape: tuple[int, int, int],
    chunk_steps: int,
    config: StatisticsConfig,
    transforms: tuple[float, ...] = (),
) -> Statistics:
    """Return climatology and scale from the training times alone.

    Two passes over the training times, a chunk of steps and a band of rows at a time, so that memory
    is bounded by the band (256 MB of sums) however long the series.

    Args:
        read: Reads steps [first, last) of all times as (steps, variables, rows, columns).
        times: All times, datetime64.
        training: Mask of the training times, same length.
        area: Weights of the cells, (rows, columns).
        shape: Variables, rows, columns.
        chunk_steps: Steps to read at once.
        config: Which climatology and which scale.
        transforms: Scale of each variable's transform, see `transformed`; 0 for none.
    """
    groups, harmonics = _choose(times[training], config)
    keys = tuple(sorted(set(_group_values(times[training], groups).tolist())))
    chunks = _chunks(training, chunk_steps)

    def shaped(first: int, last: int) -> np.ndarray:
        return transformed(read(first, last), transforms)

    size = 1 + 2 * harmonics
    row_bytes = len(keys) * size * (size + 1) * shape[0] * shape[2] * 8
    band = max(1, min(shape[1], BYTES_PER_BAND // row_bytes))
    coefficients = np.empty((len(keys), size, *shape), np.float32)
    for top in range(0, shape[1], band):
        rows = slice(top, min(top + band, shape[1]))
        coefficients[:, :, :, rows] = _fit_band(
            shaped, times, training, chunks, rows, groups, keys, harmonics, f"climatology {top}/{shape[1]}"
        )
    unit = Statistics(groups, keys, harmonics, coefficients, np.ones(shape, np.float32))
    scale = _fit_scale(shaped, times, training, chunks, unit, area, config.scale)
    return replace(unit, scale=scale, transforms=transforms)


def _choose(times: np.ndarray, config: StatisticsConfig) -> tuple[str, int]:
    groups = config.climatology
    if groups == "auto":
        groups = "month" if is_monthly(times) else "hour"
    if groups == "month":
        return groups, 0
    if config.harmonics is not None:
        return groups, config.harmonics
    span_days = (times[-1] - times[0]) / np.timedelta64(1, "D")
    return groups, 4 if span_days >= 2 * YEAR_DAYS - 3 else 0


def _chunks(training: np.ndarray, chunk_steps: int) -> list[tuple[int, int]]:
    """Return [first, last) ranges of at most `chunk_steps` that hold a training time."""
    ranges = [(i, min(i + chunk_steps, len(training))) for i in range(0, len(training), chunk_steps)]
    return [(first, last) for first, last in ranges if training[first:last].any()]


def _fit_band(
    read: Reader,
    times: np.ndarray,
    training: np.ndarray,
    chunks: list[tuple[int, int]],
    rows: slice,
    groups: str,
    keys: tuple[int, ...],
    harmonics: int,
    label: str,
) -> np.ndarray:
    """Return the least-squares coefficients of a band of rows, (keys, basis, variables, rows, columns)."""
    gram: np.ndarray | None = None
    for first, last in track(chunks, label):
        chosen = training[first:last]
        values = read(first, last)[chosen][:, :, rows].astype(np.float64)
        stamps = times[first:last][chosen]
        basis, member = _basis(stamps, harmonics), _group_values(stamps, groups)
        if gram is None:
            size = basis.shape[1]
            gram = np.zeros((len(keys), size, size, *values.shape[1:]))
            moment = np.zeros((len(keys), size, *values.shape[1:]))
        valid = np.isfinite(values)
        values = np.where(valid, values, 0)
        for k, key in enumerate(keys):
            mine = member == key
            b = basis[mine]
            gram[k] += np.einsum("ta,tb,tchw->abchw", b, b, valid[mine].astype(np.float64), optimize=True)
            moment[k] += np.einsum("ta,tchw->achw", b, values[mine], optimize=True)
    assert gram is not None
    return _solve(gram, moment)


def _solve(gram: np.ndarray, moment: np.ndarray) -> np.ndarray:
    """Return gram⁻¹ moment for every key and cell; NaN where a cell has fewer values than terms."""
    size = gram.shape[1]
    count = gram[:, 0, 0]
    if size == 1:
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(count > 0, moment[:, 0] / count, np.nan)[:, None]
    g = np.moveaxis(gram, (1, 2), (-2, -1))
    m = np.moveaxis(moment, 1, -1)[..., None]
    enough = count > 2 * size
    g = np.where(enough[..., None, None], g, np.eye(size))
    scaled = g / np.maximum(count, 1)[..., None, None]
    ill = enough & (np.linalg.eigvalsh(scaled)[..., 0] < ILL)
    harmonic = np.eye(size) * (np.arange(size) > 0)
    g = g + (ill * count * RIDGE)[..., None, None] * harmonic
    solved = np.linalg.solve(g, np.where(enough[..., None, None], m, np.nan))[..., 0]
    return np.moveaxis(solved, -1, 1)


def _fit_scale(
    read: Reader,
    times: np.ndarray,
    training: np.ndarray,
    chunks: list[tuple[int, int]],
    unit: Statistics,
    area: np.ndarray,
    kind: str,
) -> np.ndarray:
    """Return the root-mean-square training anomaly, (variables, rows, columns), by cell or by variable."""
    squares = np.zeros(unit.scale.shape)
    count = np.zeros(unit.scale.shape)
    for first, last in track(chunks, "scale"):
        chosen = training[first:last]
        anomalies = unit.normalise(read(first, last)[chosen], times[first:last][chosen]).astype(np.float64)
        valid = np.isfinite(anomalies)
        squares += np.where(valid, anomalies, 0).__pow__(2).sum(0)
        count += valid.sum(0)
    whole = np.sqrt((squares * area).sum((1, 2)) / np.maximum((count * area).sum((1, 2)), 1e-30))
    whole = np.where(whole > 0, whole, 1.0)[:, None, None]
    if kind == "variable":
        return np.broadcast_to(whole, squares.shape).astype(np.float32)
    cells = np.sqrt(squares / np.maximum(count, 1))
    return np.maximum(cells, FLOOR * whole).astype(np.float32)
