"""Anomalies of one variable on the cells that are filled."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ....ssl.common.errors import EarthSSLError, check_known
from ....ssl.fields.splits import window_starts
from ....ssl.store.store import Store
from .gaps import Places

MOST_CELLS = 8000  # distances and covariances of all pairs are held in memory
LEAST_SPREAD = 2e-3  # of a cell's training anomalies, relative to all: below it stands constant sea ice


@dataclass(frozen=True, eq=False)
class Anomalies:
    """What is to be filled: one variable's departures from the climatology of the fit period.

    The fit period is train start … validation end. Cells count that hold a value at all its times and vary.

    Attributes:
        store: Where they come from.
        variable: Canonical name.
        known: The cells that count, (rows, columns).
        normalised: The variable as the store holds it, anomalies from training's climatology, (time, rows, columns).
        offset: What these exceed the anomalies from the fit period's climatology by, in the variable's unit, (time,
            cells that count).
        places: Those cells.
    """

    store: Store
    variable: str
    known: np.ndarray
    normalised: np.ndarray
    offset: np.ndarray
    places: Places

    @classmethod
    def of(cls, store: Store, variable: str | None = None) -> Anomalies:
        """Return the anomalies of a store's variable, by default its first.

        Raises:
            EarthSSLError: If the store does not hold the variable, or has too few or too many cells of it.
        """
        name = variable or store.variables[0]
        check_known("infilling.variable", [name], store.variables)
        k = store.variables.index(name)
        normalised = store.read_all()[:, k].astype(np.float64)
        fields = normalised * store.statistics.scale[k]
        fit = store.splits.inside(store.times.astype("datetime64[ns]"), "fit")
        own = fields[fit]
        whole = np.isfinite(own).all(0)
        spread = np.where(whole, np.where(whole, own, 0.0).std(0), 0.0)
        overall = np.sqrt((spread[whole] ** 2).mean()) if whole.any() else 0.0
        known = whole & (spread > LEAST_SPREAD * overall)
        if not 2 <= known.sum() <= MOST_CELLS:
            raise EarthSSLError(
                f"infilling: expected 2 to {MOST_CELLS} cells of '{name}' that hold a value at all times from train "
                f"start to validation end and vary, got {int(known.sum())}; average the data onto larger cells "
                "(option resolution or coarsen of prepare), or take a variable without gaps of its own"
            )
        rows, columns = np.nonzero(known)
        grid = store.grid
        places = Places(grid.lat[rows], grid.lon[columns], grid.area[known])
        month = store.times.astype("datetime64[M]").astype(int) % 12
        means = np.stack([fields[fit & (month == m)][:, known].mean(0) for m in range(12)])
        return cls(store, name, known, normalised, means[month], places)

    @cached_property
    def values(self) -> np.ndarray:
        """The anomalies in the variable's unit, (time, cells that count); NaN where the truth is missing."""
        return self.from_normalised(self.normalised, np.arange(len(self.offset)))

    @cached_property
    def fit(self) -> np.ndarray:
        """Training fields of the baselines: all of the fit period, (time, cells)."""
        times = self.store.times.astype("datetime64[ns]")
        return self.values[self.store.splits.inside(times, "fit")]

    @cached_property
    def years(self) -> np.ndarray:
        """Calendar year of every step, (time,)."""
        return np.asarray(self.store.times.astype("datetime64[Y]").astype(int) + 1970)

    @property
    def position(self) -> int:
        """Index of the variable in the store."""
        return self.store.variables.index(self.variable)

    def from_normalised(self, fields: np.ndarray, steps: np.ndarray) -> np.ndarray:
        """Return normalised fields (step, rows, columns) at steps of the store as these anomalies, (step, cells)."""
        scale = self.store.statistics.scale[self.position][self.known]
        return fields[:, self.known] * scale - self.offset[steps]

    def on_grid(self, values: np.ndarray) -> np.ndarray:
        """Return values of the cells that count (…, cells) as a map (…, rows, columns), NaN elsewhere."""
        out = np.full((*values.shape[:-1], *self.known.shape), np.nan)
        out[..., self.known] = values
        return out

    def ends(self, part: str, length: int) -> np.ndarray:
        """Return the last steps of the windows of `length` steps inside a block of the splits."""
        times = self.store.times.astype("datetime64[ns]")
        return window_starts(times, self.store.splits, part, length) + length - 1
