"""Forecasts of fields by a frozen encoder, for the matrix."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from threadpoolctl import threadpool_limits

from ....ssl.common.errors import EarthSSLError, nearest
from ....ssl.model.encoder import Encoder
from ....ssl.store.store import Store
from ...evaluation.frozen_task import Evaluation, FrozenTask
from ...features.patches import POOLINGS, PatchFeatures, PatchGrid, encoder_features, raw_features
from ...heads.patch_ridge import PENALTIES
from .baselines import (
    ANOMALY,
    CHANGE,
    COMPONENTS,
    DAMPED,
    NAME,
    PATCH_PCA,
    PCA,
    Damped,
    Forecast,
    bases_of,
    calendar_climatology,
)
from .linear import States, pca_ridge
from .patch_head import PatchForecast, patch_components
from .samples import UNITS, ForecastSamples


class ForecastTask(FrozenTask):
    """Forecasts by a linear head on the frozen tokens of each patch, as the matrix asks for them."""

    name = NAME

    def __init__(
        self,
        store: Store,
        leads: Sequence[int] = (1,),
        variables: Sequence[str] | None = None,
        poolings: Sequence[str] = POOLINGS,
        bases: Sequence[str] = (ANOMALY, CHANGE),
        penalties: Sequence[float] = PENALTIES,
        components: Sequence[int] = COMPONENTS,
        window: int = 3,
        patch: Sequence[int] | None = None,
        raw_values: bool = False,
        unit: str = "auto",
    ) -> None:
        """Make the task.

        Args:
            store: The data.
            leads: Steps ahead.
            variables: To be forecast; None for all.
            poolings, bases, penalties, components, raw_values, unit: As in `ForecastConfig`.
            window: Steps that the references may see.
            patch: Rows and columns of the reference by PCA of patches; None leaves it out.

        Raises:
            EarthSSLError: If the store does not hold what is asked for.
        """
        if unit not in UNITS:
            raise EarthSSLError(f"forecast.unit: expected {', '.join(UNITS)}, got '{unit}'." + nearest(unit, UNITS))
        self._samples = ForecastSamples.of(store, leads, window, variables)
        self._poolings, self._bases, self._penalties = poolings, bases, penalties
        self._components, self._patch, self._raw_values = components, patch, raw_values
        self._unit = unit
        self.unit = self._samples.unit_kind(unit)

    def evaluate(self, encoder: Encoder, layers: Sequence[int]) -> dict[int, Evaluation]:
        """Return the errors on test of the shared head on each layer, settings chosen on validation."""
        own = self._samples
        samples = ForecastSamples.of(own.store, own.leads, encoder.config.window, own.names)
        grid = PatchGrid(own.store, (encoder.config.patch[1], encoder.config.patch[2]))
        with threadpool_limits(1, "blas"):
            found = encoder_features(
                encoder, own.store, own.fields, samples.every(), layers, self._poolings, "forecast"
            )
            if self._raw_values:
                raw = raw_features(own.fields, grid, 1, own.times)
                found = {name: one.joined(raw) for name, one in found.items()}
            return {
                layer: self._evaluated(self._head(samples, grid, {p: found[layer, p] for p in self._poolings}), samples)
                for layer in layers
            }

    def references(self) -> dict[str, Evaluation]:
        """Return the errors of damped persistence and of PCA with ridge regression, global and by patches."""
        samples = self._samples
        with threadpool_limits(1, "blas"):
            found: dict[str, Forecast] = {DAMPED: Damped.fit(samples)}
            found[PCA] = pca_ridge(
                samples, States.of(samples), bases_of(samples, self._bases), self._components, samples.window
            )
            if self._patch is not None:
                rows, columns = self._patch
                grid = PatchGrid(samples.store, (rows, columns))
                found[PATCH_PCA] = self._head(samples, grid, {"PCA": patch_components(samples, grid, 64)})
            return {name: self._evaluated(forecast, samples) for name, forecast in found.items()}

    def _head(self, samples: ForecastSamples, grid: PatchGrid, features: dict[str, PatchFeatures]) -> PatchForecast:
        return PatchForecast.fit(samples, grid, features, bases_of(samples, self._bases), self._penalties)

    def _evaluated(self, forecast: Forecast, samples: ForecastSamples) -> Evaluation:
        """Return squared errors in normalised units, one sample a target time, variable and lead."""
        units, error, reference = [], [], []
        none = calendar_climatology(samples)
        for lead in samples.leads:
            inits = samples.inits("test", lead)
            own = samples.squared_errors(forecast(inits, lead), inits, lead)
            units.append(np.repeat(samples.units(inits, lead, self._unit), own.shape[1]))
            error.append(own.ravel())
            reference.append(samples.squared_errors(none(inits, lead), inits, lead).ravel())
        return Evaluation(np.concatenate(units), np.concatenate(error), np.concatenate(reference))
