"""Tested: the samples that an ENSO table scores its rows on, be they of one test block or of several together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from ....ssl.common.errors import EarthSSLError
from ...results.row import Role, Row

MEAN = "mean over leads"


def target_name(lead: int) -> str:
    """Return what the target at a lead is called in tables."""
    return f"lead {lead}"


class Tested:
    """Months, leads, targets and the test samples.

    Attributes:
        time: Months of the record, datetime64[M], consecutive, shape (time,).
        leads: Months from the last input month to the central target month, ascending.
    """

    time: np.ndarray
    leads: tuple[int, ...]

    @property
    def target(self) -> np.ndarray:
        """3-month mean Niño 3.4 for each (lead, initial month), K, shape (lead, time); NaN where it is not known."""
        raise NotImplementedError

    @property
    def tested(self) -> Sequence[np.ndarray]:
        """Initial months of the test samples of each lead, indices of the record, ascending."""
        raise NotImplementedError

    @property
    def usual_target(self) -> np.ndarray:
        """What the target is an anomaly from, K, shape (lead, time): 3-month means of the calendar months' means."""
        raise NotImplementedError

    def of_test(self, values: np.ndarray) -> dict[str, np.ndarray]:
        """Return values for all times, (lead, time), at the test samples, by target; "mean over leads" holds all."""
        own = {target_name(lead): values[j, self.tested[j]] for j, lead in enumerate(self.leads)}
        return own | {MEAN: np.concatenate(list(own.values()))}

    def row(
        self,
        name: str,
        forecast: np.ndarray,
        settings: Mapping[str, Any],
        seed: int | None = None,
        role: Role = Role.BASELINE,
        **more: Any,
    ) -> Row:
        """Return the row of forecasts for all times, shape (lead, time), K.

        Raises:
            EarthSSLError: If a test sample has no forecast: rows scored on different samples cannot be compared.
        """
        own = self.of_test(forecast)
        missing = int((~np.isfinite(own[MEAN])).sum())
        if missing:
            raise EarthSSLError(
                f"expected a forecast for each of {len(own[MEAN])} test samples in row '{name}', {missing} are "
                "missing; build the row with the labels that it is scored by"
            )
        return Row(name, role, own, seed, dict(settings), **more)

    def array(self, forecast: Mapping[str, np.ndarray]) -> xr.DataArray:
        """Return a row's forecasts of the test samples, K, dims (lead, init_time), NaN where there is no sample."""
        used = np.isin(np.arange(len(self.time)), np.concatenate(list(self.tested)))
        values = np.full(self.target.shape, np.nan)
        for j, lead in enumerate(self.leads):
            values[j, self.tested[j]] = forecast[target_name(lead)]
        return xr.DataArray(
            values[:, used],
            dims=("lead", "init_time"),
            coords={"lead": list(self.leads), "init_time": self.time[used].astype("datetime64[ns]")},
            attrs={"units": "K", "long_name": "3-month mean Niño 3.4 anomaly"},
        )

    def calendar(self, j: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return target year, target calendar month (0 to 11) and lead of the test samples, of all leads for None."""
        chosen = range(len(self.leads)) if j is None else [j]
        months = np.concatenate([self.time[self.tested[k]].astype(int) + self.leads[k] for k in chosen])
        leads = np.concatenate([np.full(len(self.tested[k]), self.leads[k]) for k in chosen])
        return months // 12 + 1970, months % 12, leads
