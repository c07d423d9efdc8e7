"""Networks trained on the events themselves, from crop to chance: from scratch, and from the pretrained weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy.special import expit

from ....ssl.store.store import Store
from ...evaluation.encoders import PRETRAINED, contenders
from ...storms.crop_network import CropPatches, train_on_crops
from ...storms.crops import StormCrops
from ...training.fine_tuning import FinetuneConfig
from .field_features import FieldsConfig, with_headings
from .models import Forecast, Problem

SCRATCH, TUNED = "same network from scratch + track", "pretrained encoder, fine-tuned + track"


def network_rows(
    problem: Problem,
    store: Store,
    checkpoints: Sequence[str],
    tracks: pd.DataFrame,
    fields: FieldsConfig,
    config: FinetuneConfig,
    seeds: tuple[int, int],
) -> list[Forecast]:
    """Return the rows of networks trained end to end on the training storms; the track joins crops in the head.

    Those from scratch start from the untrained twins' weights and train in full, all layers at one rate. Validation
    chooses the number of steps by the log loss; no class is weighted.

    Args:
        problem: The event, of samples that all have fields.
        store, checkpoints, fields: As for `field_features`.
        tracks: What the samples were taken from.
        config: How to train.
        seeds: Numbers of networks from scratch and of pretrained encoders to fine-tune.
    """
    wanted = {SCRATCH: seeds[0], TUNED: min(seeds[1], len(checkpoints))}
    if not any(wanted.values()):
        return []
    found = contenders(store, checkpoints, max(fields.untrained_seeds, seeds[0]), fields.encoder)
    shape = found[0].encoder.config
    samples = with_headings(problem.samples, tracks, fields.crops)
    crops = CropPatches(StormCrops(store, samples, shape.window, fields.crops, shape.patch[1:]), shape.patch)
    blocks = {name: problem.inside(name) for name in ("train", "val")}
    whole = replace(config, mode="full", layer_decay=1.0)
    made = []
    for row, how in ((SCRATCH, whole), (TUNED, config)):
        own = [one for one in found if (one.kind == PRETRAINED) == (row == TUNED)][: wanted[row]]
        for one in own:
            trained = train_on_crops(
                crops, one.encoder, problem.predictors.track, problem.event.astype(np.float64), blocks, how, one.seed,
                classes=True, label=f"{row}, seed {one.seed}",
            )  # fmt: skip
            chosen = {"steps": trained.trained.steps, "loss": trained.trained.score, "lr": how.lr}
            made.append(problem.forecast(row, expit(trained.values), one.seed, **chosen))
    return made
