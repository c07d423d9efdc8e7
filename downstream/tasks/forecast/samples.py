"""ForecastSamples: states, their futures at each lead, and which initial time belongs to which block."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, reduce
from itertools import pairwise

import numpy as np

from ....ssl.common.errors import EarthSSLError, check_known
from ....ssl.fields.normalisation import restored
from ....ssl.fields.splits import is_monthly, unbroken_starts, window_starts
from ....ssl.fields.variables import lookup
from ....ssl.store.store import Store

BLOCKS = ("train", "val", "test")
UNITS = ("auto", "week", "month", "year")
HOUR = np.timedelta64(1, "h")


@dataclass(frozen=True, eq=False)
class ForecastSamples:
    """A store as forecasts see it: from the steps i - window + 1 … i to the step i + lead.

    Fields are the store's, anomalies from the training climatology over their scale. A sample belongs to a
    block where its *target* lies in it and its inputs lie in no other block; training samples lie wholly inside
    the training block. The gaps between blocks are at least window + longest lead, so every target of the
    validation and test blocks is forecast at every lead, as far as the record is unbroken.

    Attributes:
        store: The data.
        fields: Normalised anomalies of all variables, NaN = missing, (time, variable, row, column).
        names: Variables that are forecast.
        leads: Steps ahead, ascending.
        window: Steps that a forecast may see.
        only: Training samples by the unit of their last input step, as `units` counts them; None: all.
        kind: Of these units.
    """

    store: Store
    fields: np.ndarray
    names: tuple[str, ...]
    leads: tuple[int, ...]
    window: int
    only: np.ndarray | None = None
    kind: str = "auto"

    @classmethod
    def of(
        cls, store: Store, leads: Sequence[int], window: int, variables: Sequence[str] | None = None
    ) -> ForecastSamples:
        """Return the samples of a store.

        Args:
            store: A finished store.
            leads: Steps ahead.
            window: Steps that a forecast may see.
            variables: To be forecast; None for all.

        Raises:
            EarthSSLError: If a variable is unknown, a lead is below 1, blocks lie closer than window + longest
                lead, or a block holds no sample at a lead.
        """
        ordered = tuple(sorted({int(lead) for lead in leads}))
        if not ordered or ordered[0] < 1 or window < 1:
            raise EarthSSLError(
                f"forecast.leads: expected steps ahead from 1 and a window from 1, got {list(leads)} and {window}"
            )
        names = tuple(variables or store.variables)
        check_known(f"forecast.variables of {store.path}", names, store.variables)
        if len(set(names)) < len(names):
            raise EarthSSLError(f"forecast.variables: expected each once, got {', '.join(names)}; leave one out")
        return cls(store, store.read_all(), names, ordered, window).seeing(window)

    def seeing(self, window: int) -> ForecastSamples:
        """Return the samples of forecasts that see another number of steps.

        Raises:
            EarthSSLError: As `of`.
        """
        made = replace(self, window=window)
        made._check_gaps()
        made.every()
        return made

    def trained_on(self, units: np.ndarray, kind: str) -> ForecastSamples:
        """Return the same with the training samples of some units only, by their last input step."""
        return replace(self, only=units, kind=kind)

    @property
    def times(self) -> np.ndarray:
        """Times of the steps, datetime64[s]."""
        return self.store.times

    @cached_property
    def positions(self) -> list[int]:
        """Where the forecast variables stand among the store's."""
        return [self.store.variables.index(name) for name in self.names]

    @cached_property
    def weight(self) -> np.ndarray:
        """Share of the sphere of each cell, 0 where training saw no value, (forecast variable, row, column)."""
        return self.store.statistics.known[self.positions] * self.store.grid.area

    def inside(self, block: str) -> np.ndarray:
        """Return which steps lie in a block, (time,)."""
        return self.store.splits.inside(self.times.astype("datetime64[ns]"), block)

    @cached_property
    def _found(self) -> dict[tuple[str, int], np.ndarray]:
        return {}

    def inits(self, block: str, lead: int) -> np.ndarray:
        """Return the index of the last input step of every sample of a block at a lead, ascending.

        Raises:
            EarthSSLError: If there is none.
        """
        if (block, lead) not in self._found:
            self._found[block, lead] = self._inits(block, lead)
        return self._found[block, lead]

    def _inits(self, block: str, lead: int) -> np.ndarray:
        times = self.times.astype("datetime64[ns]")
        if block == "train":
            ends = np.asarray(window_starts(times, self.store.splits, block, self.window + lead) + self.window - 1)
            return ends if self.only is None else ends[np.isin(self.units(ends, 0, self.kind), self.only)]
        last = unbroken_starts(times, self.window + lead) + self.window - 1
        taken = np.any([self.inside(part) for part in BLOCKS if part != block], axis=0)
        before = np.concatenate([[0], np.cumsum(taken)])
        clean = before[last + 1] == before[last + 1 - self.window]
        chosen = last[clean & self.inside(block)[last + lead]]
        seen = np.isfinite(self.fields[chosen + lead][:, self.positions]).any(axis=(2, 3)).all(axis=1)
        if not seen.any():
            raise EarthSSLError(
                f"forecast.leads: no sample of the {block} block at lead {self.label(lead)} (window {self.window} "
                f"steps) has its inputs in the record; shorten the lead or widen the block"
            )
        return np.asarray(chosen[seen])

    def every(self) -> np.ndarray:
        """Return the initial steps of all samples, ascending."""
        return np.unique(np.concatenate([self.inits(block, lead) for block in BLOCKS for lead in self.leads]))

    def joint(self, block: str) -> np.ndarray:
        """Return the initial steps that are samples of a block at every lead.

        Raises:
            EarthSSLError: If there are none.
        """
        found = reduce(np.intersect1d, [self.inits(block, lead) for lead in self.leads])
        if not len(found):
            raise EarthSSLError(
                f"forecast.leads: no initial time of the {block} block serves all of {list(self.leads)} steps; widen "
                "the block or drop the longest lead"
            )
        return found

    def truth(self, inits: np.ndarray, lead: int) -> np.ndarray:
        """Return the true futures, normalised, NaN = missing, (sample, forecast variable, row, column)."""
        return self.fields[inits + lead][:, self.positions]

    def present(self, inits: np.ndarray) -> np.ndarray:
        """Return the last input states of the forecast variables; a missing value is no anomaly (0)."""
        return np.nan_to_num(self.fields[inits][:, self.positions])

    def squared_errors(self, forecast: np.ndarray, inits: np.ndarray, lead: int) -> np.ndarray:
        """Return area-weighted mean squared errors over valid cells, normalised, (sample, forecast variable).

        Raises:
            EarthSSLError: If a forecast is missing where there is truth.
        """
        truth = self.truth(inits, lead)
        valid = np.isfinite(truth) & (self.weight > 0)
        if not np.isfinite(forecast[valid]).all():
            raise EarthSSLError("expected a forecast wherever there is truth, got missing or infinite values")
        w = valid * self.weight
        error = (w * np.where(valid, forecast - truth, 0.0).astype(np.float64) ** 2).sum(axis=(2, 3))
        return np.asarray(error / np.maximum(w.sum(axis=(2, 3)), 1e-30))

    def in_units(self, fields: np.ndarray, inits: np.ndarray, lead: int) -> tuple[np.ndarray, np.ndarray]:
        """Return fields at the target times and the climatology there, in shown units (see `unit`).

        float64, (sample, forecast variable, row, column) each.
        """
        statistics = self.store.statistics.select(self.positions)
        climatology = statistics.climatology(self.times[inits + lead].astype("datetime64[ns]")).astype(np.float64)
        factor = np.array([self.factor(name) for name in self.names])[:, None, None]
        held = restored(fields * statistics.scale.astype(np.float64) + climatology, statistics.transforms)
        return held / factor, restored(climatology, statistics.transforms) / factor

    def factor(self, name: str) -> float:
        """Return the power of ten that a variable is shown in: 1 where its typical anomaly is from 0.01 on."""
        scale = self.store.statistics.scale[self.store.variables.index(name)]
        typical = float(np.sqrt((scale.astype(np.float64) ** 2).mean())) * (lookup(name).transform_scale or 1.0)
        return 1.0 if typical >= 1e-2 else 10.0 ** math.floor(math.log10(typical))

    def unit(self, name: str) -> str:
        """Return the unit that a variable is shown in."""
        factor, units = self.factor(name), lookup(name).units
        return units if factor == 1 else f"{factor:.0e} {units}"

    @property
    def step_hours(self) -> float:
        """Hours between steps (of a mean month for months)."""
        return float(np.median(np.diff(self.times)) / HOUR)

    def label(self, lead: int) -> str:
        """Return a lead in words: hours, days or months."""
        if is_monthly(self.times):
            return f"{lead} mo"
        hours = lead * self.step_hours
        return f"{hours / 24:g} d" if self.step_hours >= 24 else f"{hours:g} h"

    def units(self, inits: np.ndarray, lead: int, kind: str = "auto") -> np.ndarray:
        """Return the independent unit of each sample: the year, month or week (from the test's start) of its target."""
        kind = self.unit_kind(kind)
        target = self.times[inits + lead]
        if kind == "week":
            return np.asarray((target - self.times[self.inside("test")][0]) // np.timedelta64(7, "D"))
        if kind == "year":
            return np.asarray(target.astype("datetime64[Y]").astype(int) + 1970)
        return np.asarray(target.astype("datetime64[M]").astype(int))

    def unit_kind(self, kind: str = "auto") -> str:
        """Return the kind of unit: of monthly data years, of others weeks, unless asked otherwise."""
        return ("year" if is_monthly(self.times) else "week") if kind == "auto" else kind

    def _check_gaps(self) -> None:
        """Raise unless every two neighbouring blocks lie at least window + longest lead steps apart."""
        if is_monthly(self.times):
            at = self.times.astype("datetime64[M]").astype(float)
        else:
            at = (self.times - self.times[0]) / np.median(np.diff(self.times))
        ends = sorted((*at[self.inside(part)][[0, -1]], part) for part in BLOCKS)
        wanted = self.window + self.leads[-1]
        for (_, last, earlier), (first, _, later) in pairwise(ends):
            if first - last < wanted:
                raise EarthSSLError(
                    f"forecast.leads: expected blocks at least window {self.window} + longest lead {self.leads[-1]} = "
                    f"{wanted} steps apart, got {first - last:g} from {earlier} to {later} in {self.store.path}; "
                    "shorten the longest lead, or prepare the store with wider gaps"
                )
