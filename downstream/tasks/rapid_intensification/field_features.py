"""Features of the samples from fields: frozen encoders and principal components on crops around the storms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError, nearest
from ....ssl.model.encoder import EncoderConfig
from ....ssl.sources.planet.planet import Planet
from ....ssl.store.store import Store
from ...evaluation.encoders import Contender, contenders
from ...storms.crop_geometry import headings
from ...storms.crops import POOLINGS, CropConfig, StormCrops, crop_features, crop_pca
from .models import SampleFeatures

PCA_ROLE = "PCA of the"


@dataclass(frozen=True)
class FieldsConfig:
    """What of the fields around a storm the heads are given.

    Attributes:
        crops: Size and orientation of the crops.
        poolings: Ways to pool tokens, to choose from: mean, last, nearby.
        layers: Blocks to choose from, counted from 0; null for all.
        pca_components: Numbers of principal components of the crops, to choose from.
        untrained_seeds: Number of randomly initialised twins.
        encoder: Shape of the untrained encoders where there are no checkpoints.
    """

    crops: CropConfig = field(default_factory=CropConfig)
    poolings: list[str] = field(default_factory=lambda: ["mean", "last"])
    layers: list[int] | None = None
    pca_components: list[int] = field(default_factory=lambda: [10, 40])
    untrained_seeds: int = 3
    encoder: EncoderConfig = field(default_factory=EncoderConfig)

    def __post_init__(self) -> None:
        for name in self.poolings:
            if name not in POOLINGS:
                raise EarthSSLError(
                    f"fields.poolings: expected {', '.join(POOLINGS)}, got '{name}'." + nearest(name, POOLINGS)
                )
        if not self.poolings or self.untrained_seeds < 0 or min(self.pca_components, default=1) < 1:
            raise EarthSSLError(
                f"fields: expected some pooling, untrained_seeds ≥ 0 and pca_components ≥ 1, got {self.poolings}, "
                f"{self.untrained_seeds}, {self.pca_components}"
            )


def field_features(
    store: Store,
    checkpoints: Sequence[str],
    tracks: pd.DataFrame,
    samples: pd.DataFrame,
    part: np.ndarray,
    config: FieldsConfig,
) -> tuple[list[SampleFeatures], dict[str, Any]]:
    """Return features of the samples through every encoder, and of the raw crops.

    Args:
        store: The fields.
        checkpoints: Of one recipe at several seeds; none for untrained encoders only.
        tracks: What the samples were taken from; gives the motion for rotated crops.
        samples: See `samples_of`.
        part: Block of each sample.
        config: What to extract.

    Returns:
        The features, NaN for samples outside the store; and for result.json the encoders and how many samples had
        no fields, by reason.

    Raises:
        EarthSSLError: If checkpoints do not fit the store, or no sample lies in it.
    """
    samples = with_headings(samples, tracks, config.crops)
    found = contenders(store, checkpoints, config.untrained_seeds, config.encoder)
    made: list[SampleFeatures] = []
    dropped: dict[str, int] = {}
    for one in found:
        own, dropped = _encoded(one, store, samples, config)
        made += own
    made += _components(found[0], store, samples, part == "train", config)
    return made, {"encoders": [{"kind": one.kind, **one.source} for one in found], "without_fields": dropped}


def with_headings(samples: pd.DataFrame, tracks: pd.DataFrame, crops: CropConfig) -> pd.DataFrame:
    """Return the samples, with the motion of their storms where crops are to be rotated."""
    if not crops.rotated:
        return samples
    motion = tracks[["storm", "time"]].assign(heading=headings(tracks))
    return samples.merge(motion, on=["storm", "time"], how="left", validate="1:1")


def _encoded(
    one: Contender, store: Store, samples: pd.DataFrame, config: FieldsConfig
) -> tuple[list[SampleFeatures], dict[str, int]]:
    layers = list(range(one.encoder.depth)) if config.layers is None else sorted(set(config.layers))
    made: list[SampleFeatures] = []
    dropped: dict[str, int] = {}
    for pooling in config.poolings:
        found = crop_features(one.encoder, store, samples, layers, config.crops, pooling)
        dropped = found.dropped
        for layer in layers:
            values = _whole(found.values[layer], found.kept, len(samples))
            made.append(SampleFeatures("encoder", one.seed, values, one.kind, f"layer {layer + 1}, {pooling}"))
    return made, dropped


def _components(
    one: Contender, store: Store, samples: pd.DataFrame, train: np.ndarray, config: FieldsConfig
) -> list[SampleFeatures]:
    """Return the leading principal components of what the encoder sees."""
    if not config.pca_components:
        return []
    window, rows, columns = one.encoder.config.window, *one.encoder.config.patch[1:]
    crops = StormCrops(store, samples, window, config.crops, (rows, columns))
    scores = _whole(crop_pca(crops, train, max(config.pca_components)), crops.kept, len(samples))
    return [
        SampleFeatures("crop", None, scores[:, :count], PCA_ROLE, f"{count} components")
        for count in config.pca_components
    ]


def _whole(values: np.ndarray, kept: np.ndarray, count: int) -> np.ndarray:
    out = np.full((count, values.shape[1]), np.nan, np.float32)
    out[kept] = values
    return out


def best_reachable(planet: Planet, samples: pd.DataFrame, threshold_kt: float, members: int) -> np.ndarray:
    """Return the chance of each sample from the planet's whole hidden state, (samples,)."""
    asked = samples[["storm", "time"]].astype({"storm": planet.tracks()["storm"].dtype})
    return planet.intensification_forecast(asked, threshold_kt, members=members)
