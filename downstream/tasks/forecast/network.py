"""Networks from windows to the future of every patch: fine-tuned, or trained from scratch on the forecast itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....ssl.model.encoder import Encoder, EncoderConfig
from ...features.patches import PatchGrid
from ...features.store_windows import StoreWindows
from ...training.fine_tuning import FinetuneConfig, fine_tune
from ...training.from_scratch import ScratchConfig, learn
from ...training.patch_network import PatchNetwork
from .baselines import Damped
from .samples import ForecastSamples


class NetworkForecast:
    """What a network adds to damped persistence.

    Attributes:
        network: From windows to departures of every lead's patch, normalised, (place, lead × variable × cell).
        settings: How far training went, plain values.
    """

    def __init__(self, samples: ForecastSamples, grid: PatchGrid, damped: Damped, encoder: Encoder) -> None:
        """Put a head that says 0 on an encoder: the forecast starts at damped persistence.

        Args:
            samples: What to forecast.
            grid: How the globe is cut.
            damped: What the network departs from.
            encoder: To be trained; as it is, or before training.
        """
        self.samples, self.grid, self.damped = samples, grid, damped
        self.network = PatchNetwork(encoder, len(samples.leads) * len(samples.names) * grid.patch[0] * grid.patch[1])
        self.settings: Mapping[str, Any] = {}
        self._weight = torch.from_numpy(grid.weight(samples.positions)).float()
        self._windows = StoreWindows(samples.store, encoder.config.window, samples.fields)

    def __call__(self, inits: np.ndarray, lead: int) -> np.ndarray:
        """Return forecasts, normalised anomalies, (sample, forecast variable, row, column)."""
        return self._forecast(self._departures(self.network, inits), inits, lead)

    def loss(self, network: PatchNetwork, inits: np.ndarray) -> Tensor:
        """Return the area-weighted mean squared error over valid cells, mean over the leads."""
        departures = self._said(network, inits)
        total = departures.new_zeros(())
        for k, lead in enumerate(self.samples.leads):
            wanted = torch.from_numpy(self.grid.cut(self.samples.truth(inits, lead) - self.damped(inits, lead)))
            valid = torch.isfinite(wanted) * self._weight
            error = (departures[:, :, k] - torch.nan_to_num(wanted)) ** 2
            total = total + (valid * error).sum() / valid.sum().clamp(min=1e-12)
        return total / len(self.samples.leads)

    def score(self, network: PatchNetwork) -> float:
        """Return the mean squared error on validation, mean over the leads."""
        val = {lead: self.samples.inits("val", lead) for lead in self.samples.leads}
        every = np.unique(np.concatenate(list(val.values())))
        out = self._departures(network.eval(), every)
        made = {lead: self._forecast(out[np.searchsorted(every, rows)], rows, lead) for lead, rows in val.items()}
        return float(np.mean([self.samples.squared_errors(made[lead], val[lead], lead).mean() for lead in val]))

    def _said(self, network: PatchNetwork, inits: np.ndarray) -> Tensor:
        """Return the network's output, (sample, place, lead, variable × cell)."""
        return torch.unflatten(network(self._windows.batch(inits)), 2, (len(self.samples.leads), -1))

    @torch.no_grad()
    def _departures(self, network: PatchNetwork, inits: np.ndarray) -> np.ndarray:
        parts = np.array_split(inits, max(1, len(inits) // 64))
        return np.concatenate([self._said(network, part).numpy() for part in parts])

    def _forecast(self, departures: np.ndarray, inits: np.ndarray, lead: int) -> np.ndarray:
        k = self.samples.leads.index(lead)
        fields = self.grid.join(departures[:, :, k], len(self.samples.names))
        return np.nan_to_num(fields) + self.damped(inits, lead)


def fine_tuned(
    samples: ForecastSamples, grid: PatchGrid, damped: Damped, encoder: Encoder, config: FinetuneConfig, seed: int,
    label: str,
) -> NetworkForecast:  # fmt: skip
    """Return the forecast of a network that starts from an encoder's weights; the encoder given stays as it is.

    Args:
        samples, grid, damped: As for `NetworkForecast`.
        encoder: Where it starts.
        config: How to train; the step that is best on validation counts, the start included.
        seed: Of order and drop-path.
        label: For the progress bar.
    """
    made = NetworkForecast(samples, grid, damped, copy.deepcopy(encoder).requires_grad_(True))
    network = made.network
    found = fine_tune(
        network, network.encoder, samples.joint("train"), lambda chosen: made.loss(network, chosen),
        lambda: made.score(network), config, seed, label,
    )  # fmt: skip
    made.settings = {"steps": found.steps, "validation error": found.score, "base": "damped persistence",
                     "history": [list(one) for one in found.history]}  # fmt: skip
    return made


def from_scratch(
    samples: ForecastSamples, grid: PatchGrid, damped: Damped, shape: EncoderConfig, config: ScratchConfig, seed: int
) -> NetworkForecast:
    """Return the forecast of a network trained on nothing but the forecast; weights of its best look at validation.

    Args:
        samples, grid, damped: As for `NetworkForecast`.
        shape: Of the encoder, as it is pretrained.
        config: How to train.
        seed: Of weights and order.
    """

    def new() -> NetworkForecast:
        return NetworkForecast(samples, grid, damped, shape.build(samples.store.variables))

    made = new()
    found = learn(lambda: new().network, made.loss, made.score, samples.joint("train"), None, config, seed)
    made.network = found.network
    made.settings = {"steps": found.steps, "validation error": found.score, "base": "damped persistence"}
    return made
