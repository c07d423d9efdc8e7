"""Networks trained on the events themselves, from crop to chance: from scratch, and from the pretrained weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.special import expit

from ...evaluation.encoders import Contender
from ...metrics.classes import frequencies
from ...storms.crop_network import CropPatches, train_on_crops
from ...training.fine_tuning import FinetuneConfig
from ...training.from_scratch import ScratchConfig
from .models import Chances, Problem

SCRATCH, TUNED = "same network from scratch + track", "pretrained encoder, fine-tuned + track"


def from_scratch(config: ScratchConfig, like: FinetuneConfig) -> FinetuneConfig:
    """Return how a network is trained from scratch: in full and at one rate, all else like another."""
    return replace(
        like, mode="full", layer_decay=1.0, steps=config.steps, batch_size=config.batch_size, lr=config.lr,
        weight_decay=config.weight_decay, check_every=config.check_every,
    )  # fmt: skip


def trained(
    problem: Problem, crops: CropPatches, one: Contender, config: FinetuneConfig, label: str, labelled: np.ndarray
) -> Chances:
    """Return what a network trained end to end says; the track joins the crop in its head, no class is weighted.

    Validation chooses the number of steps by the log loss. Where all labels are alike, Laplace's rule.

    Args:
        problem: The event, of samples that all have fields.
        crops: Theirs.
        one: Where the encoder starts.
        config: How to train.
        label: For the progress bar.
        labelled: Mask of the samples it is trained on.
    """
    event = problem.event
    if len(np.unique(event[labelled])) < 2:
        return problem.chances(np.full(len(event), frequencies(event[labelled], 2)[0, 1]))
    blocks = {"train": labelled, "val": problem.inside("val")}
    found = train_on_crops(
        crops, one.encoder, problem.predictors.track, event.astype(np.float64), blocks, config, one.seed,
        classes=True, label=f"{label}, seed {one.seed}",
    )  # fmt: skip
    chosen = {"steps": found.trained.steps, "loss": found.trained.score, "lr": config.lr}
    return replace(problem.chances(expit(found.values)), chosen=chosen)
