"""A network on crops: the encoder and a linear head on its pooled tokens and numbers beside them, trained together."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import PLACE, Patches, patchify
from ..heads.base import standardised
from ..training.fine_tuning import FinetuneConfig, Finetuned, fine_tune
from .crops import StormCrops, at_true_places

AT_ONCE = 256


class CropNetwork(nn.Module):
    """Crop and numbers -> one number; a constant at the start."""

    def __init__(self, encoder: Encoder, numbers: int, constant: float) -> None:
        """Join a copy of the encoder, all of it to be trained, to a head of zeros.

        Args:
            encoder: Stays as it is.
            numbers: How many stand beside each crop.
            constant: The network's first answer.
        """
        super().__init__()
        self.encoder = copy.deepcopy(encoder).requires_grad_(True)
        self.head = nn.Linear(encoder.width + numbers, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, constant)

    def forward(self, patches: Patches, numbers: Tensor, hide: frozenset[str]) -> Tensor:
        """Return one number for each sample, (batch,), from the mean over all tokens and the numbers (batch, k)."""
        pooled = self.encoder(patches, hide=hide).mean(1)
        return self.head(torch.cat([pooled, numbers], 1))[:, 0]


class CropPatches:
    """The patches of all crops, held in memory, so that any mixture of samples makes a batch.

    Every sample has the places of its own box; cells that no step of the store holds are missing, like others.
    """

    def __init__(self, crops: StormCrops, patch: tuple[int, int, int]) -> None:
        """Cut the crops, which must hold whole patches."""
        order, parts = [], []
        self.hide = frozenset({PLACE}) if crops.config.rotated else frozenset()
        for crop in crops:
            known = torch.ones_like(crop.batch.known)  # else boxes with land would have fewer patches
            patches = patchify(replace(crop.batch, known=known), patch)
            patches = patches if crop.west is None else at_true_places(patches, crop.west)
            place = patches.place.expand(len(crop.samples), -1, -1)
            parts.append((patches.values, patches.valid, patches.season, place))
            order.append(crop.samples)
        at = torch.from_numpy(np.argsort(np.concatenate(order)))
        self._pattern = patches
        self._parts = [torch.cat(one)[at] for one in zip(*parts, strict=True)]

    def __len__(self) -> int:
        return len(self._parts[0])

    def take(self, rows: np.ndarray) -> Patches:
        """Return the patches of some crops, by their number among those kept; `place` has a leading sample axis."""
        values, valid, season, place = (one[torch.from_numpy(rows)] for one in self._parts)
        return replace(self._pattern, values=values, valid=valid, season=season, place=place)


@dataclass(frozen=True, eq=False)
class TrainedCrops:
    """What a trained network says.

    Attributes:
        values: Logits, or numbers in the targets' unit, one for each sample.
        trained: How far training went, and the validation loss there.
    """

    values: np.ndarray
    trained: Finetuned


def train_on_crops(
    crops: CropPatches,
    encoder: Encoder,
    numbers: np.ndarray,
    targets: np.ndarray,
    blocks: Mapping[str, np.ndarray],
    config: FinetuneConfig,
    seed: int,
    *,
    classes: bool,
    label: str,
) -> TrainedCrops:
    """Return what a network trained on the training block says of every sample; validation chooses the steps.

    Args:
        crops: Of all samples.
        encoder: Where it starts; stays as it is.
        numbers: Beside each crop, (samples, k); standardised here by the training block.
        targets: 0 or 1, or numbers, (samples,).
        blocks: Masks of the samples by block; train and val are read.
        config: How to train.
        seed: Of order and drop-path.
        classes: Targets are events: the loss is the log loss, unweighted, and the answers are logits. Otherwise the
            mean squared error of targets in training standard deviations.
        label: For the progress bar.

    Raises:
        EarthSSLError: If samples differ in number, or the training block has one class or value only.
    """
    counts = {len(crops), len(numbers), len(targets), *(len(one) for one in blocks.values())}
    if len(counts) > 1:
        raise EarthSSLError(f"{label}: expected crops, numbers, targets and blocks of the same samples, got {counts}")
    train, val = blocks["train"], np.flatnonzero(blocks["val"])
    mean, spread = float(targets[train].mean()), float(targets[train].std())
    if not spread > 0:
        raise EarthSSLError(f"{label}: expected training targets that differ, got {int(train.sum())} of {mean:g}")
    shift, scale, constant = (0.0, 1.0, float(np.log(mean / (1 - mean)))) if classes else (mean, spread, 0.0)
    beside = torch.from_numpy(standardised(numbers[train], numbers)[1]).float()
    wanted = torch.from_numpy((targets - shift) / scale).float()
    network = CropNetwork(encoder, numbers.shape[1], constant)
    kind: Callable[[Tensor, Tensor], Tensor] = (
        nn.functional.binary_cross_entropy_with_logits if classes else nn.functional.mse_loss
    )

    def asked(rows: np.ndarray) -> Tensor:
        return network(crops.take(rows), beside[torch.from_numpy(rows)], crops.hide)

    def answers(rows: np.ndarray) -> Tensor:
        return torch.cat([asked(part) for part in np.array_split(rows, -(-len(rows) // AT_ONCE))])

    trained = fine_tune(
        network,
        network.encoder,
        np.flatnonzero(train),
        lambda rows: kind(asked(rows), wanted[torch.from_numpy(rows)]),
        lambda: float(kind(answers(val), wanted[torch.from_numpy(val)])),
        config,
        seed,
        label,
    )
    with torch.no_grad():
        values = answers(np.arange(len(targets))).numpy().astype(float)
    return TrainedCrops(values * scale + shift, trained)
