"""StateNetwork: the encoder and a head for all leads, trained from scratch on the states alone."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from ....ssl.fields.batch import Batch
from ....ssl.model.encoder import Encoder, EncoderConfig
from ....ssl.model.tokens import patchify
from ....ssl.store.store import Store
from ...features.store_windows import StoreWindows
from ...heads.base import Choice
from ...metrics.classes import one_hot, squared_error
from ...training.from_scratch import SCRATCH, ScratchConfig, learn, seeded
from ..enso.state_labels import STATES, StateLabels
from .rows import Classified


class StateNetwork(nn.Module):
    """The encoder, its mean feature, and a linear head for every class at every lead."""

    def __init__(self, encoder: Encoder, leads: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.leads = leads
        self.head = nn.Linear(encoder.width, leads * len(STATES))

    def forward(self, batch: Batch) -> Tensor:
        """Return logits, (batch, lead, class)."""
        features = self.encoder(patchify(batch, self.encoder.config.patch)).mean(1)
        return self.head(features).unflatten(1, (self.leads, len(STATES)))


def scratch_rows(
    config: ScratchConfig, shape: EncoderConfig, store: Store, labels: StateLabels
) -> dict[int, list[Classified]]:
    """Return one row a seed at each lead, from one network for all leads.

    Trained by cross-entropy; validation chooses the number of steps by the Brier score, mean over the leads, and the
    network is trained anew on training and validation samples for so many.

    Args:
        config: How to train, and how many seeds.
        shape: Of the encoder, as it is pretrained.
        store: The fields.
        labels: The states.
    """
    windows = StoreWindows(store, shape.window)
    rows = {block: [labels.rows(block, lead) for lead in labels.leads] for block in ("train", "val", "test")}
    train, val = (np.unique(np.concatenate(rows[block])) for block in ("train", "val"))
    fit = np.concatenate([train, val])
    targets = torch.from_numpy(_targets(labels, len(store.times)))

    def loss(network: StateNetwork, chosen: np.ndarray) -> Tensor:
        wanted = targets[torch.from_numpy(chosen)]
        return nn.functional.cross_entropy(network(windows.batch(chosen)).flatten(0, 1), wanted.flatten())

    def probabilities(network: StateNetwork, block: str) -> list[np.ndarray]:
        every = np.unique(np.concatenate(rows[block]))
        found = torch.from_numpy(windows.outputs(network, every)).double().softmax(-1).numpy()
        return [found[np.searchsorted(every, own), k] for k, own in enumerate(rows[block])]

    def errors(network: StateNetwork) -> list[float]:
        truth = [one_hot(labels.target(own, lead), len(STATES))
                 for own, lead in zip(rows["val"], labels.leads, strict=True)]  # fmt: skip
        pairs = zip(probabilities(network, "val"), truth, strict=True)
        return [float(squared_error(found, wanted).mean()) for found, wanted in pairs]

    made: dict[int, list[Classified]] = {lead: [] for lead in labels.leads}
    for seed in range(config.seeds):

        def make(seed: int = seed) -> StateNetwork:
            seeded(seed)
            return StateNetwork(shape.build(store.variables), len(labels.leads))

        found = learn(make, loss, lambda network: float(np.mean(errors(network))), train, fit, config, seed)
        choice = Choice("labels only, mean over the tokens", f"{found.steps} steps", found.score, {})
        for lead, own in zip(labels.leads, probabilities(found.network, "test"), strict=True):
            made[lead].append(Classified(SCRATCH, seed, own, choice))
    return made


def _targets(labels: StateLabels, steps: int) -> np.ndarray:
    """Return the class of each month's season at each lead, (time, lead); -100 where it is no sample to learn from."""
    made = np.full((steps, len(labels.leads)), -100)
    for k, lead in enumerate(labels.leads):
        for block in ("train", "val"):
            own = labels.rows(block, lead)
            made[own, k] = labels.target(own, lead)
    return made
