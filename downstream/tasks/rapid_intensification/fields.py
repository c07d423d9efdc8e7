"""Features of the samples from the fields around them: of frozen encoders, and of the raw crops."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from ....ssl.model.encoder import EncoderConfig
from ....ssl.store.store import Store
from ...evaluation.encoders import Contender
from ...features.raw_window import block_means
from ...storms.crop_geometry import headings
from ...storms.crop_network import CropPatches
from ...storms.crops import CropConfig, StormCrops, crop_features, crop_pca
from .config import FieldsConfig

MOST_VALUES = 3000  # of a crop; of more, cells are averaged over square blocks


class StormFields:
    """Crops of a store around samples.

    Attributes:
        shown: Which samples have a crop, bool (samples,).
        dropped: How many have none, by reason.
    """

    def __init__(
        self, store: Store, samples: pd.DataFrame, tracks: pd.DataFrame, config: FieldsConfig, shape: EncoderConfig
    ) -> None:
        """Choose the samples that can be shown.

        Args:
            store: The fields.
            samples: See `samples_of`.
            tracks: What the samples were taken from; gives the motion for rotated crops.
            config: What to extract.
            shape: Window and patch of the encoders.

        Raises:
            EarthSSLError: If no sample lies in the store, or as for `StormCrops`.
        """
        self.store, self.config, self.shape = store, config, shape
        self.samples = with_headings(samples, tracks, config.crops)
        self.crops = self.of(np.ones(len(samples), bool))
        self.dropped = self.crops.dropped
        self.shown = np.zeros(len(samples), bool)
        self.shown[self.crops.kept] = True

    def of(self, kept: np.ndarray) -> StormCrops:
        """Return the crops of some samples, in whole patches."""
        samples = self.samples[kept].reset_index(drop=True)
        return StormCrops(self.store, samples, self.shape.window, self.config.crops, self.shape.patch[1:])

    def patches(self, kept: np.ndarray) -> CropPatches:
        """Return the patches of the crops of some samples that are shown, for networks."""
        return CropPatches(self.of(kept), self.shape.patch)

    def embedded(self, one: Contender, layers: Sequence[int], kept: np.ndarray) -> dict[str, np.ndarray]:
        """Return the frozen features of an encoder for some samples that are shown, by pooling and layer."""
        made = {}
        for pooling in self.config.poolings:
            found = crop_features(one.encoder, self.store, self.samples, layers, self.config.crops, pooling)
            at = np.searchsorted(found.kept, np.flatnonzero(kept))
            for layer in layers:
                made[f"layer {layer + 1}, {pooling}"] = found.values[layer][at]
        return made

    def raw(self, kept: np.ndarray) -> np.ndarray:
        """Return the crops of some samples that are shown, float32 (sample, value); 0 = missing."""
        cells = self.of(kept).fields()
        factor, (rows, columns) = 1, cells.shape[-2:]
        while -(-rows // factor) * -(-columns // factor) * cells.shape[1] * cells.shape[2] > MOST_VALUES:
            factor += 1
        return np.nan_to_num(block_means(cells, factor)).reshape(len(cells), -1)

    def components(self, train: np.ndarray, kept: np.ndarray) -> dict[str, np.ndarray]:
        """Return leading principal components of the crops of some samples that are shown, by their number.

        Args:
            train: Which of all samples lie in the training block; they are fitted on.
            kept: Which are asked for.
        """
        counts = self.config.pca_components
        found = crop_pca(self.crops, train, max(counts)).astype(np.float32)
        own = found[np.searchsorted(self.crops.kept, np.flatnonzero(kept))]
        return {f"{count} components": own[:, :count] for count in counts}


def with_headings(samples: pd.DataFrame, tracks: pd.DataFrame, crops: CropConfig) -> pd.DataFrame:
    """Return the samples, with the motion of their storms where crops are to be rotated."""
    if not crops.rotated:
        return samples
    motion = tracks[["storm", "time"]].assign(heading=headings(tracks))
    return samples.merge(motion, on=["storm", "time"], how="left", validate="1:1")
