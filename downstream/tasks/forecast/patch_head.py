"""PatchForecast: the frozen features of each patch, and one linear head for all places, to the patch's future."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ....ssl.common.errors import EarthSSLError
from ...features.patches import PatchFeatures, PatchGrid, pca_features, raw_features
from ...heads.patch_ridge import PENALTIES, PatchRidge
from .baselines import Forecast
from .samples import ForecastSamples


@dataclass(frozen=True, eq=False)
class Choice:
    """What validation chose for one lead and variable.

    Attributes:
        features: Name of the features.
        base: What the prediction is added to.
        head: Of all penalties, for the cells of this variable.
        number: Of the penalty.
        error: Validation error, mean over weighted cells.
    """

    features: str
    base: str
    head: PatchRidge
    number: int
    error: float


@dataclass(frozen=True, eq=False)
class PatchForecast:
    """Heads fitted on training samples; features, penalty and base of each lead and variable chosen on validation.

    Attributes:
        samples: What it forecasts.
        grid: How the globe is cut.
        features: Candidates by name.
        bases: By name.
        chosen: By (lead, position of the variable).
    """

    samples: ForecastSamples
    grid: PatchGrid
    features: Mapping[str, PatchFeatures]
    bases: Mapping[str, Forecast]
    chosen: Mapping[tuple[int, int], Choice]

    @classmethod
    def fit(
        cls,
        samples: ForecastSamples,
        grid: PatchGrid,
        features: Mapping[str, PatchFeatures],
        bases: Mapping[str, Forecast],
        penalties: Sequence[float] = PENALTIES,
    ) -> PatchForecast:
        """Return the heads.

        Args:
            samples: What to forecast.
            grid: How the globe is cut.
            features: Candidates: a layer, a pooling.
            bases: Candidates.
            penalties: To choose from, multiples of n.

        Raises:
            EarthSSLError: If there is nothing to choose from, or no patch is ever observed whole.
        """
        if not features or not bases:
            raise EarthSSLError("patch head: expected features and bases to choose from, got none of one of them")
        weight = grid.weight(samples.positions)
        cells = weight.shape[1] // len(samples.names)
        chosen: dict[tuple[int, int], Choice] = {}
        for lead in samples.leads:
            train, val = samples.inits("train", lead), samples.inits("val", lead)
            # All bases stand side by side as targets: the features' moments are made once.
            y, y_val = (
                np.concatenate([grid.cut(samples.truth(r, lead) - base(r, lead)) for base in bases.values()], axis=2)
                for r in (train, val)
            )
            w = np.concatenate([weight] * len(bases), axis=1)
            parts = [(base, k) for base in bases for k in range(len(samples.names))]
            for name, found in features.items():
                head = PatchRidge.fit(found.at(train), y, w, penalties)
                errors = head.errors(found.at(val), y_val, w)
                for part, (base, k) in enumerate(parts):
                    columns = slice(part * cells, (part + 1) * cells)
                    error = _mean(errors[:, columns], w[:, columns].sum(axis=0))
                    best = int(error.argmin())
                    one = Choice(name, base, head.take(columns), best, float(error[best]))
                    if (lead, k) not in chosen or one.error < chosen[lead, k].error:
                        chosen[lead, k] = one
        return cls(samples, grid, features, bases, chosen)

    def __call__(self, inits: np.ndarray, lead: int) -> np.ndarray:
        """Return forecasts, normalised anomalies, (sample, forecast variable, row, column)."""
        out = np.empty((len(inits), *self.samples.weight.shape), np.float32)
        for k in range(len(self.samples.names)):
            one = self.chosen[lead, k]
            cells = one.head.predict(self.features[one.features].at(inits), one.number)
            out[:, k] = np.nan_to_num(self.grid.join(cells, 1)[:, 0]) + self.bases[one.base](inits, lead)[:, k]
        return out

    @property
    def settings(self) -> dict[str, Any]:
        """What was chosen, as plain values by variable and lead."""
        return {
            f"{self.samples.names[k]} {self.samples.label(lead)}": {
                "features": one.features, "base": one.base, "penalty": one.head.penalties[one.number],
            }
            for (lead, k), one in self.chosen.items()
        }  # fmt: skip


def _mean(errors: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Return the weighted mean over the targets that were observed, for each penalty."""
    seen = np.isfinite(errors).all(axis=0) & (share > 0)
    if not seen.any():
        raise EarthSSLError(
            "patch head: no patch was observed whole at any validation time; choose smaller patches, or fill the gaps"
        )
    return np.asarray(errors[:, seen] @ share[seen] / share[seen].sum())


def patch_components(samples: ForecastSamples, grid: PatchGrid, count: int) -> PatchFeatures:
    """Return principal components of each patch over the window: the linear counterpart of an encoder's tokens."""
    raw = raw_features(samples.fields, grid, samples.window, samples.times)
    return pca_features(raw, samples.inits("train", samples.leads[0]), grid.area, count)
