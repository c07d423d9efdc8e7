"""FrozenTokens: what a frozen encoder says of the labelled windows, pooled in any way from one pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...ssl.common.progress import track
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import patchify
from ..features.eof import Eof
from ..features.store_windows import StoreWindows
from .head import LOCAL, near, pooled, season_of
from .samples import LabelSamples

BATCH = 64


@dataclass(frozen=True, eq=False)
class Projection:
    """Principal components of the last step's tokens: x · basis - offset.

    Attributes:
        basis: Shape (patch × width, component).
        offset: Shape (component,).
    """

    basis: torch.Tensor
    offset: torch.Tensor


NONE = Projection(torch.zeros(0, 0), torch.zeros(0))


@dataclass(frozen=True, eq=False)
class FrozenTokens:
    """Outputs of some layers for every sample.

    Attributes:
        layers: Which, counted from 0.
        mean: Over all tokens, by layer, (window, width).
        last: Tokens of the last step, by layer, float16 (window, patch, width).
        season: Of each window, (window, 4).
        window: Which window each sample belongs to, (sample,).
        chosen: Patches nearest to each sample's place, (sample, near); None for labels of the whole field.
        area: Share of the sphere of each patch, (patch,).
    """

    layers: tuple[int, ...]
    mean: dict[int, torch.Tensor]
    last: dict[int, torch.Tensor]
    season: torch.Tensor
    window: np.ndarray
    chosen: torch.Tensor | None
    area: np.ndarray

    @classmethod
    def extract(
        cls, encoder: Encoder, windows: StoreWindows, samples: LabelSamples, layers: Sequence[int], nearest: int,
        label: str,
    ) -> FrozenTokens:  # fmt: skip
        """Return the tokens of an encoder; it is put in evaluation mode.

        Args:
            encoder: Frozen.
            windows: Of the store.
            samples: Whose windows are wanted.
            layers: Blocks whose outputs are wanted, counted from 0.
            nearest: Number of patches near a place.
            label: For the progress bar.
        """
        encoder.eval()
        rows, window = np.unique(samples.last, return_inverse=True)
        mean: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        last: dict[int, list[torch.Tensor]] = {layer: [] for layer in layers}
        seasons = []
        for begin in track(range(0, len(rows), BATCH), label):
            patches = patchify(windows.batch(rows[begin : begin + BATCH]), encoder.config.patch)
            with torch.no_grad():
                every = encoder.layers(patches)
            for layer in layers:
                mean[layer].append(every[layer].mean(1))
                last[layer].append(every[layer].unflatten(1, (patches.shape[0], -1))[:, -1].half())
            seasons.append(season_of(patches))
        places = samples.places
        chosen = None if places is None else near(patches, torch.from_numpy(places), nearest)
        return cls(
            tuple(layers),
            {layer: torch.cat(parts) for layer, parts in mean.items()},
            {layer: torch.cat(parts) for layer, parts in last.items()},
            torch.cat(seasons),
            window.ravel(),
            chosen,
            patches.area.sum(1).numpy()[-len(last[layers[0]][0][0]) :],
        )

    def projection(self, layer: int, train: np.ndarray, count: int) -> Projection:
        """Return principal components fitted on the windows of training samples, at most as many as they carry."""
        rows = np.unique(self.window[train])
        flat = self.last[layer][torch.from_numpy(rows)].flatten(1).float().numpy()
        weight = np.repeat(self.area, self.last[layer].shape[2])
        most = min(count, len(rows) - 1, flat.shape[1])
        eof = Eof.fit(flat, weight, most)
        basis = np.nan_to_num(eof.patterns).T * eof.weight[:, None]
        offset = np.nan_to_num(eof.mean) @ basis
        return Projection(torch.from_numpy(basis).float(), torch.from_numpy(offset).float())

    def inputs(self, layer: int, pooling: str, projection: Projection = NONE) -> np.ndarray:
        """Return the inputs of a head for all samples, (sample, feature), or (sample, patch, feature) for patches."""
        window = torch.from_numpy(self.window)
        if pooling in LOCAL or pooling == "patch":
            last, chosen = self.last[layer][window].float(), self.chosen
            made = pooled(pooling, self.mean[layer][window], last, self.season[window], chosen, *_pair(projection))
            return np.asarray(made.numpy())
        last = self.last[layer].float()
        made = pooled(pooling, self.mean[layer], last, self.season, None, *_pair(projection))
        return np.asarray(made[window].numpy())


def _pair(projection: Projection) -> tuple[torch.Tensor, torch.Tensor]:
    return projection.basis, projection.offset
