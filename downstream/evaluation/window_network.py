"""Networks trained from scratch on labels of windows: the encoder, its mean feature, and a linear head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ...ssl.fields.batch import Batch
from ...ssl.model.encoder import Encoder, EncoderConfig
from ...ssl.model.tokens import patchify
from ...ssl.store.store import Store
from ..features.store_windows import StoreWindows
from ..metrics.classes import squared_error
from ..training.from_scratch import ScratchConfig, learn
from .window_labels import WindowLabels

UNKNOWN = -100  # what cross-entropy passes over


class WindowNetwork(nn.Module):
    """The encoder, its mean feature, and a linear head: one number, or a logit for each class, for every target."""

    def __init__(self, encoder: Encoder, targets: int, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.shape = (targets, outputs)
        self.head = nn.Linear(encoder.width, targets * outputs)

    def forward(self, batch: Batch) -> Tensor:
        """Return numbers or logits, (batch, target, output)."""
        features = self.encoder(patchify(batch, self.encoder.config.patch)).mean(1)
        return self.head(features).unflatten(1, self.shape)


@dataclass(frozen=True, eq=False)
class TrainedOnWindows:
    """A network's forecasts.

    Attributes:
        steps: How long it was trained, as validation chose.
        score: Mean squared error on validation (Brier's for classes), mean over the targets.
        forecast: For the test samples of each target: (sample,), or (sample, class).
    """

    steps: int
    score: float
    forecast: Mapping[str, np.ndarray]


def window_networks(
    config: ScratchConfig,
    shape: EncoderConfig,
    store: Store,
    labels: Sequence[WindowLabels],
    seeds: int,
    units: np.ndarray | None = None,
    validation_error: Callable[[Sequence[np.ndarray]], float] | None = None,
) -> Iterator[TrainedOnWindows]:
    """Yield a network for each seed, one for all targets.

    Classes are learnt by cross-entropy, numbers by squared error in units of their spread in training. Validation
    chooses the number of steps; with all labels the network is trained anew on training and validation together, as
    heads are refitted.

    Args:
        config: How to train.
        shape: Of the encoder, as it is pretrained.
        store: The fields.
        labels: All numbers, or all of the same number of classes.
        seeds: How many networks.
        units: Training units whose labels may be read, nothing being refitted; None: all.
        validation_error: Of what is said of the validation samples of each target, smaller is better; None: the mean
            squared error, over the targets.
    """
    windows = StoreWindows(store, shape.window)
    classes = len(labels[0].classes)
    rows = {part: [one.rows[part] for one in labels] for part in ("train", "val", "test")}
    if units is not None:
        rows["train"] = [r[np.isin(one.units[r], units)] for r, one in zip(rows["train"], labels, strict=True)]
    train, val = (np.unique(np.concatenate(rows[part])) for part in ("train", "val"))
    scale = np.array([1.0 if classes else float(one.values[r, 0].std()) or 1.0
                      for r, one in zip(rows["train"], labels, strict=True)])  # fmt: skip
    learnt = [one.refit_rows for one in labels] if units is None else rows["train"]
    targets = _targets(labels, learnt, scale)

    def loss(network: WindowNetwork, chosen: np.ndarray) -> Tensor:
        out, wanted = network(windows.batch(chosen)), targets[torch.from_numpy(chosen)]
        if classes:
            return nn.functional.cross_entropy(out.flatten(0, 1), wanted.flatten(), ignore_index=UNKNOWN)
        known = torch.isfinite(wanted)
        return ((out[..., 0] - torch.nan_to_num(wanted))[known] ** 2).mean()

    def predicted(network: WindowNetwork, part: str) -> list[np.ndarray]:
        every = np.unique(np.concatenate(rows[part]))
        out = torch.from_numpy(windows.outputs(network, every)).double()
        found = (out.softmax(-1) if classes else out[..., 0] * torch.from_numpy(scale)).numpy()
        return [found[np.searchsorted(every, own), k] for k, own in enumerate(rows[part])]

    def error(network: WindowNetwork) -> float:
        found = predicted(network, "val")
        if validation_error is not None:
            return validation_error(found)
        pairs = zip(found, rows["val"], labels, scale, strict=True)
        return float(np.mean([
            squared_error((own if classes else own[:, None]) / spread, one.values[r] / spread).mean()
            for own, r, one, spread in pairs
        ]))  # fmt: skip

    def network() -> WindowNetwork:
        return WindowNetwork(shape.build(store.variables), len(labels), max(1, classes))

    fit = _refit(labels, train, val) if units is None else None
    for seed in range(seeds):
        found = learn(network, loss, error, train, fit, config, seed)
        forecast = dict(zip([one.name for one in labels], predicted(found.network, "test"), strict=True))
        yield TrainedOnWindows(found.steps, found.score, forecast)


def _refit(labels: Sequence[WindowLabels], train: np.ndarray, val: np.ndarray) -> np.ndarray | None:
    """Return the samples of the second training; None where they are those of the first."""
    if all("fit" in one.rows for one in labels):
        found = np.unique(np.concatenate([one.rows["fit"] for one in labels]))
        return None if np.array_equal(found, train) else found
    return np.concatenate([train, val])


def _targets(labels: Sequence[WindowLabels], rows: Sequence[np.ndarray], scale: np.ndarray) -> Tensor:
    """Return class numbers or scaled numbers, (time, target); where nothing may be learnt, `UNKNOWN` or NaN."""
    steps = len(labels[0].values)
    if labels[0].classes:
        made = np.full((steps, len(labels)), UNKNOWN)
        for k, (one, own) in enumerate(zip(labels, rows, strict=True)):
            made[own, k] = one.values[own].argmax(axis=1)
        return torch.from_numpy(made)
    numbers = np.full((steps, len(labels)), np.nan, dtype=np.float32)
    for k, (one, own) in enumerate(zip(labels, rows, strict=True)):
        numbers[own, k] = one.values[own, 0] / scale[k]
    return torch.from_numpy(numbers)
