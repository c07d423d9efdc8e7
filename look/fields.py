"""Fields of a store as the page asks for them: values or anomalies in units, a few steps at a time."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..ssl.common.errors import EarthSSLError, nearest
from ..ssl.fields.normalisation import restored
from ..ssl.fields.variables import lookup
from ..ssl.store.store import Store

KINDS = ("anomaly", "value")
SAMPLE_BYTES = 64 * 2**20  # fields looked at for the colour range
BLOCK_BYTES = 4 * 2**20  # most that one answer holds, where that is a step at least
MEAN_BYTES = 512 * 2**20  # fields read for one mean map


class Fields:
    """Reads a store for the page; memory is bounded whatever the store's length.

    Attributes:
        store: The store.
        ranges: Of each variable and kind, the ends of its colour scale, in units.
    """

    def __init__(self, store: Store) -> None:
        """Look at some steps, evenly spread, for the colour ranges.

        Raises:
            EarthSSLError: If a chunk cannot be read.
        """
        self.store = store
        step_bytes = 4 * int(np.prod(store.shape[1:]))
        count = int(np.clip(SAMPLE_BYTES // step_bytes, 2, 48))
        steps = np.unique(np.linspace(0, len(store.times) - 1, count).astype(int))
        sample = store.read(steps)
        self.ranges: dict[str, dict[str, tuple[float, float]]] = {kind: {} for kind in KINDS}
        for k, name in enumerate(store.variables):
            values, anomalies = (self._in_units(sample[:, k], steps, k, kind) for kind in ("value", "anomaly"))
            finite = values[np.isfinite(values)]
            low, high = np.quantile(finite, [0.005, 0.995]) if len(finite) else (0.0, 1.0)
            self.ranges["value"][name] = (float(low), float(high) if high > low else float(low) + 1)
            departures = np.abs(anomalies[np.isfinite(anomalies)])
            most = float(np.quantile(departures, 0.995)) if len(departures) else 1.0
            self.ranges["anomaly"][name] = (-(most or 1.0), most or 1.0)

    def describe(self) -> dict[str, Any]:
        """Return what the page needs before its first picture, as plain JSON."""
        store = self.store
        grid = store.grid
        variables = [
            {"name": name, "long_name": lookup(name).long_name, "units": lookup(name).units,
             "ranges": {kind: list(self.ranges[kind][name]) for kind in KINDS}}
            for name in store.variables
        ]  # fmt: skip
        return {
            "variables": variables,
            "rows": grid.shape[0],
            "columns": grid.shape[1],
            "lat_bounds": grid.lat_bounds.tolist(),
            "lon_bounds": grid.lon_bounds.tolist(),
            "lat": grid.lat.tolist(),
            "lon": grid.lon.tolist(),
            "periodic": grid.periodic,
            "steps": len(store.times),
            "step_days": store.step_days,
            "block": self.block_steps,
            "source": store.manifest["source"],
            "synthetic": store.synthetic,
            "splits": {
                name: [int(edge.astype("datetime64[s]").astype(np.int64)) for edge in block]
                for name, block in store.splits.named().items()
            },
        }

    @property
    def block_steps(self) -> int:
        """Most steps of one variable in an answer."""
        return int(np.clip(BLOCK_BYTES // (4 * int(np.prod(self.store.grid.shape))), 1, 32))

    @property
    def seconds(self) -> np.ndarray:
        """Of every step since 1970, float64 (a JavaScript number)."""
        return self.store.times.astype(np.int64).astype(np.float64)

    def block(self, variable: str, kind: str, first: int, count: int) -> np.ndarray:
        """Return steps of a variable in its units, float32 (step, row, column), NaN where missing.

        Fewer than `count` where the store ends, or where they are too many for one answer.

        Raises:
            EarthSSLError: If the store holds no such variable or step, or there is no such kind.
        """
        position = self._position(variable, kind)
        if not (0 <= first < len(self.store.times) and count >= 1):
            raise EarthSSLError(f"step: expected 0…{len(self.store.times) - 1}, got {first} (and {count} from there)")
        steps = np.arange(first, min(first + min(count, self.block_steps), len(self.store.times)))
        return self._in_units(self.store.read(steps)[:, position], steps, position, kind)

    def mean(self, variable: str, kind: str, steps: np.ndarray) -> tuple[np.ndarray, int]:
        """Return the mean of a variable over steps, float32 (row, column), and over how many it was taken.

        Of more steps than `MEAN_BYTES` of fields hold, evenly spread ones are taken.

        Raises:
            EarthSSLError: As `block`, or if there are no steps.
        """
        position = self._position(variable, kind)
        if not len(steps):
            raise EarthSSLError("expected states inside the brush, got none; drag over some points")
        most = max(1, MEAN_BYTES // (4 * int(np.prod(self.store.shape[1:]))))
        if len(steps) > most:
            steps = steps[np.linspace(0, len(steps) - 1, most).astype(int)]
        total, valid = np.zeros(self.store.grid.shape), np.zeros(self.store.grid.shape)
        for part in np.array_split(steps, max(1, len(steps) // 64)):
            values = self._in_units(self.store.read(part)[:, position], part, position, kind)
            total += np.nansum(values, axis=0)
            valid += np.isfinite(values).sum(axis=0)
        return np.divide(total, valid, out=np.full(total.shape, np.nan), where=valid > 0).astype(np.float32), len(steps)

    def _position(self, variable: str, kind: str) -> int:
        if variable not in self.store.variables:
            known = self.store.variables
            raise EarthSSLError(f"variable: expected {', '.join(known)}, got '{variable}'." + nearest(variable, known))
        if kind not in KINDS:
            raise EarthSSLError(f"kind: expected {', '.join(KINDS)}, got '{kind}'")
        return self.store.variables.index(variable)

    def _in_units(self, normal: np.ndarray, steps: np.ndarray, position: int, kind: str) -> np.ndarray:
        """Return normalised fields of one variable in its units: as they were, or less their climatology."""
        statistics = self.store.statistics.select([position])
        times = self.store.times[steps]
        departure = normal[:, None] * statistics.scale
        if kind == "anomaly" and not any(statistics.transforms):
            return departure[:, 0].astype(np.float32)
        climatology = statistics.climatology(times)
        values = restored(departure + climatology, statistics.transforms)
        if kind == "anomaly":
            values = values - restored(climatology, statistics.transforms)
        return values[:, 0].astype(np.float32)
