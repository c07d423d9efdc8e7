"""A network from windows to the future of every patch: the encoder and a linear head, trained together."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from ....ssl.fields.batch import from_fields
from ....ssl.model.encoder import Encoder
from ....ssl.model.tokens import Patches, patchify
from ...features.patches import PatchGrid
from ...training.fine_tuning import FinetuneConfig, Finetuned, fine_tune
from .baselines import Damped
from .samples import ForecastSamples


class PatchNetwork(nn.Module):
    """Tokens of the last step -> the departure of every lead's patch from damped persistence; 0 at the start."""

    def __init__(self, encoder: Encoder, leads: int, cells: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, leads * cells)
        self.leads = leads
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, patches: Patches) -> Tensor:
        """Return departures, normalised, (batch, place, lead, variable × cell)."""
        last = self.encoder(patches).unflatten(1, (patches.shape[0], -1))[:, -1]
        return self.head(last).unflatten(2, (self.leads, -1))


class TrainedForecast:
    """A network trained on the forecast itself, from the encoder's weights as given.

    Attributes:
        trained: How far training went.
    """

    def __init__(
        self, samples: ForecastSamples, grid: PatchGrid, damped: Damped, encoder: Encoder, config: FinetuneConfig,
        seed: int, label: str,
    ) -> None:  # fmt: skip
        """Train; the encoder given stays as it is.

        Args:
            samples: What to forecast.
            grid: How the globe is cut.
            damped: What the network departs from.
            encoder: Where it starts.
            config: How to train.
            seed: Of order and drop-path.
            label: For the progress bar.
        """
        self.samples, self.grid, self.damped = samples, grid, damped
        self._weight = torch.from_numpy(grid.weight(samples.positions)).float()
        self._network = PatchNetwork(_thawed(encoder), len(samples.leads), self._weight.shape[1])
        self._states = torch.from_numpy(samples.fields)
        self._known = torch.from_numpy(samples.store.statistics.known)
        self._seconds = torch.from_numpy(samples.times.astype(np.int64))
        val = {lead: samples.inits("val", lead) for lead in samples.leads}
        every = np.unique(np.concatenate(list(val.values())))

        def loss(chosen: np.ndarray) -> Tensor:
            return self._error(self._network(self._patches(chosen)), chosen)

        def score() -> float:
            out = self._departures(every)
            errors = [
                samples.squared_errors(self._forecast(out[np.searchsorted(every, rows)], rows, lead), rows, lead).mean()
                for lead, rows in val.items()
            ]
            return float(np.mean(errors))

        self.trained: Finetuned = fine_tune(
            self._network, self._network.encoder, samples.joint("train"), loss, score, config, seed, label
        )

    def __call__(self, inits: np.ndarray, lead: int) -> np.ndarray:
        """Return forecasts, normalised anomalies, (sample, forecast variable, row, column)."""
        with torch.no_grad():
            return self._forecast(self._departures(inits), inits, lead)

    @property
    def settings(self) -> dict[str, object]:
        """How far training went, as plain values."""
        return {"steps": self.trained.steps, "validation error": self.trained.score, "base": "damped persistence"}

    def _error(self, departures: Tensor, inits: np.ndarray) -> Tensor:
        """Return the area-weighted mean squared error over valid cells, mean over the leads."""
        total = departures.new_zeros(())
        for k, lead in enumerate(self.samples.leads):
            wanted = torch.from_numpy(self.grid.cut(self.samples.truth(inits, lead) - self.damped(inits, lead)))
            valid = torch.isfinite(wanted) * self._weight
            error = (departures[:, :, k] - torch.nan_to_num(wanted)) ** 2
            total = total + (valid * error).sum() / valid.sum().clamp(min=1e-12)
        return total / len(self.samples.leads)

    def _patches(self, inits: np.ndarray) -> Patches:
        config, store = self._network.encoder.config, self.samples.store
        steps = torch.from_numpy(inits)[:, None] + torch.arange(-config.window + 1, 1)
        keys = torch.zeros(len(inits), dtype=torch.int64)
        batch = from_fields(self._states[steps], self._seconds[steps], keys, self._known, store.variables, store.grid)
        return patchify(batch, config.patch)

    def _departures(self, inits: np.ndarray) -> np.ndarray:
        """Return the network's output in evaluation mode, (sample, place, lead, variable × cell)."""
        parts = np.array_split(inits, max(1, len(inits) // 64))
        return np.concatenate([self._network(self._patches(part)).numpy() for part in parts])

    def _forecast(self, departures: np.ndarray, inits: np.ndarray, lead: int) -> np.ndarray:
        k = self.samples.leads.index(lead)
        fields = self.grid.join(departures[:, :, k], len(self.samples.names))
        return np.nan_to_num(fields) + self.damped(inits, lead)


def _thawed(encoder: Encoder) -> Encoder:
    """Return a copy whose parameters can be trained."""
    return copy.deepcopy(encoder).requires_grad_(True)
