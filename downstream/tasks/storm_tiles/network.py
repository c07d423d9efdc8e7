"""TileNetwork: the encoder and a head on each token of the last step, trained from scratch on storms in tiles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from ....ssl.fields.batch import Batch
from ....ssl.model.encoder import Encoder, EncoderConfig
from ....ssl.model.tokens import patchify
from ...features.store_windows import StoreWindows
from ...results.row import Role, Row
from ...training.from_scratch import SCRATCH, ScratchConfig, learn, seeded
from .baselines import called_from
from .labels import TileLabels


class TileNetwork(nn.Module):
    """Tokens of the last step -> the departure of each tile's log odds from the climatology's; 0 at the start."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.width, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, batch: Batch) -> Tensor:
        """Return departures, (batch, place)."""
        patches = patchify(batch, self.encoder.config.patch)
        last = self.encoder(patches)[:, patches.step == patches.shape[0] - 1]
        return self.head(last).squeeze(-1)


def scratch_rows(
    config: ScratchConfig,
    shape: EncoderConfig,
    windows: StoreWindows,
    labels: TileLabels,
    seeds: int,
    weeks: np.ndarray | None = None,
) -> Iterator[Row]:
    """Yield one row a seed: steps and threshold chosen on validation, then trained anew on train + validation.

    Args:
        config: How to train.
        shape: Of the encoder, as it is pretrained.
        windows: Of the store.
        labels: The storms.
        seeds: How many networks.
        weeks: Training weeks whose labels they may read, nothing being trained anew; None: all.
    """
    training = labels.training(weeks)
    storms, offset = torch.from_numpy(labels.storms).float(), torch.from_numpy(labels.log_odds(training)).float()
    train, val, test, both = (
        np.flatnonzero(own)
        for own in (training, labels.inside("val"), labels.inside("test"), training | labels.inside("val"))
    )

    def loss(network: TileNetwork, chosen: np.ndarray) -> Tensor:
        own = torch.from_numpy(chosen)
        logits = network(windows.batch(labels.steps[chosen])) + offset[own]
        return nn.functional.binary_cross_entropy_with_logits(logits, storms[own])

    def chances(network: TileNetwork, chosen: np.ndarray) -> np.ndarray:
        logits = windows.outputs(network, labels.steps[chosen]) + offset.numpy()[chosen]
        return np.asarray(expit(logits.astype(float)))

    for seed in range(seeds):
        best, threshold = np.inf, dict[tuple[str, str], float]()

        def make(seed: int = seed) -> TileNetwork:
            seeded(seed)
            return TileNetwork(shape.build(windows.store.variables))

        def score(network: TileNetwork) -> float:
            nonlocal best, threshold
            found = chances(network, val)
            error = float(((found - labels.storms[val]) ** 2).mean())
            if error < best:
                best, threshold = error, called_from(labels, found, labels.storms[val])
            return error

        found = learn(make, loss, score, train, both if weeks is None else None, config, seed)
        chosen = {"features": "labels only", "steps": found.steps, "validation_brier": 2 * found.score}
        forecast = {labels.name: chances(found.network, test)}
        yield Row(SCRATCH, Role.SCRATCH, forecast, seed, chosen, threshold=threshold)
