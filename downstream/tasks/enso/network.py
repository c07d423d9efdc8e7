"""The encoder's network trained from scratch on the ENSO labels."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ....ssl.fields.batch import Batch
from ....ssl.model.encoder import Encoder, EncoderConfig
from ....ssl.model.tokens import patchify
from ....ssl.store.store import Store
from ...features.store_windows import StoreWindows
from ...metrics.seasonal import Row
from ...training.from_scratch import SCRATCH, ScratchConfig, learn, seeded
from .labels import EnsoTask

# ---- ENSO ------------------------------------------------------------------------------------------------------


class Regressor(nn.Module):
    """The encoder, its mean feature, and a linear head for all leads."""

    def __init__(self, encoder: Encoder, leads: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, leads)

    def forward(self, batch: Batch) -> Tensor:
        """Return forecasts in units of the targets' standard deviation, (batch, lead)."""
        return self.head(self.encoder(patchify(batch, self.encoder.config.patch)).mean(1))


def scratch_rows(config: ScratchConfig, shape: EncoderConfig, store: Store, task: EnsoTask) -> list[Row]:
    """Return one row a seed: the number of steps chosen on validation, then trained anew on train + validation."""
    windows = StoreWindows(store, shape.window)
    scale = task.target[:, task.samples("train")[0]].std(axis=1)
    targets = torch.from_numpy((task.target / scale[:, None]).T).float()
    train, fit = (np.flatnonzero(task.samples(block)[0]) for block in ("train", "fit"))

    def loss(network: Regressor, chosen: np.ndarray) -> Tensor:
        return ((network(windows.batch(chosen)) - targets[torch.from_numpy(chosen)]) ** 2).mean()

    def forecast(network: Regressor, block: str) -> np.ndarray:
        out, wanted = np.full(task.target.shape, np.nan), np.flatnonzero(task.inits(block))
        out[:, wanted] = windows.outputs(network, wanted).T * scale[:, None]
        return out

    def score(network: Regressor) -> float:
        return -float(task.validation_score(forecast(network, "val")).mean())

    rows = []
    for seed in range(config.seeds):

        def make(seed: int = seed) -> Regressor:
            seeded(seed)
            return Regressor(shape.build(store.variables), len(task.leads))

        found = learn(make, loss, score, train, fit, config, seed)
        settings = {"steps": found.steps, "validation_score": -found.score, "pooling": "mean",
                    "trained on": "labels only"}  # fmt: skip
        rows.append(task.row(SCRATCH, forecast(found.network, "test"), settings, seed))
    return rows
