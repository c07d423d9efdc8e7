"""Networks from windows to the future of every patch: fine-tuned, or trained from scratch on the forecast itself."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ....ssl.fields.batch import from_fields
from ....ssl.model.encoder import Encoder, EncoderConfig
from ....ssl.model.tokens import Patches, patchify
from ...features.patches import PatchGrid
from ...training.fine_tuning import FinetuneConfig, fine_tune
from ...training.from_scratch import ScratchConfig, learn, seeded
from ...training.patch_network import PatchNetwork
from .baselines import Damped
from .samples import ForecastSamples


class NetworkForecast:
    """What a network adds to damped persistence.

    Attributes:
        network: From windows to departures of every lead's patch, normalised, (place, lead × variable × cell).
        settings: How far training went, plain values.
    """

    def __init__(self, samples: ForecastSamples, grid: PatchGrid, damped: Damped, network: PatchNetwork) -> None:
        """Keep what the forecast needs.

        Args:
            samples: What to forecast.
            grid: How the globe is cut.
            damped: What the network departs from.
            network: As it is, or before training.
        """
        self.samples, self.grid, self.damped, self.network = samples, grid, damped, network
        self.settings: Mapping[str, Any] = {}
        self._weight = torch.from_numpy(grid.weight(samples.positions)).float()
        self._states = torch.from_numpy(samples.fields)
        self._known = torch.from_numpy(samples.store.statistics.known)
        self._seconds = torch.from_numpy(samples.times.astype(np.int64))
        self._val = {lead: samples.inits("val", lead) for lead in samples.leads}

    def __call__(self, inits: np.ndarray, lead: int) -> np.ndarray:
        """Return forecasts, normalised anomalies, (sample, forecast variable, row, column)."""
        return self._forecast(self._departures(self.network, inits), inits, lead)

    def loss(self, network: PatchNetwork, inits: np.ndarray) -> Tensor:
        """Return the area-weighted mean squared error over valid cells, mean over the leads."""
        departures = self._by_lead(network(self._patches(network, inits)))
        total = departures.new_zeros(())
        for k, lead in enumerate(self.samples.leads):
            wanted = torch.from_numpy(self.grid.cut(self.samples.truth(inits, lead) - self.damped(inits, lead)))
            valid = torch.isfinite(wanted) * self._weight
            error = (departures[:, :, k] - torch.nan_to_num(wanted)) ** 2
            total = total + (valid * error).sum() / valid.sum().clamp(min=1e-12)
        return total / len(self.samples.leads)

    def score(self, network: PatchNetwork) -> float:
        """Return the mean squared error on validation, mean over the leads."""
        every = np.unique(np.concatenate(list(self._val.values())))
        out = self._departures(network.eval(), every)
        errors = [
            self.samples.squared_errors(
                self._forecast(out[np.searchsorted(every, rows)], rows, lead), rows, lead
            ).mean()
            for lead, rows in self._val.items()
        ]
        return float(np.mean(errors))

    def _by_lead(self, out: Any) -> Any:
        return out.reshape(*out.shape[:2], len(self.samples.leads), -1)

    def _patches(self, network: PatchNetwork, inits: np.ndarray) -> Patches:
        config, store = network.encoder.config, self.samples.store
        steps = torch.from_numpy(inits)[:, None] + torch.arange(-config.window + 1, 1)
        keys = torch.zeros(len(inits), dtype=torch.int64)
        batch = from_fields(self._states[steps], self._seconds[steps], keys, self._known, store.variables, store.grid)
        return patchify(batch, config.patch)

    @torch.no_grad()
    def _departures(self, network: PatchNetwork, inits: np.ndarray) -> np.ndarray:
        """Return the network's output, (sample, place, lead, variable × cell)."""
        parts = np.array_split(inits, max(1, len(inits) // 64))
        return np.asarray(
            self._by_lead(np.concatenate([network(self._patches(network, part)).numpy() for part in parts]))
        )

    def _forecast(self, departures: np.ndarray, inits: np.ndarray, lead: int) -> np.ndarray:
        k = self.samples.leads.index(lead)
        fields = self.grid.join(departures[:, :, k], len(self.samples.names))
        return np.nan_to_num(fields) + self.damped(inits, lead)


def _outputs(samples: ForecastSamples, grid: PatchGrid) -> int:
    return len(samples.leads) * len(samples.names) * grid.patch[0] * grid.patch[1]


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
    network = PatchNetwork(copy.deepcopy(encoder).requires_grad_(True), _outputs(samples, grid))
    made = NetworkForecast(samples, grid, damped, network)
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

    def make() -> PatchNetwork:
        seeded(seed)
        return PatchNetwork(shape.build(samples.store.variables), _outputs(samples, grid))

    made = NetworkForecast(samples, grid, damped, make())
    found = learn(make, made.loss, made.score, samples.joint("train"), None, config, seed)
    made.network = found.network
    made.settings = {"steps": found.steps, "validation error": found.score, "base": "damped persistence"}
    return made
