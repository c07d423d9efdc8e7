"""A network trained from scratch on the labels alone: what the same architecture does without pretraining."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError, check_settings
from ...ssl.common.randomness import key
from .loop import Looks, Schedule, Training, best_on_validation, by_decay, warmup_and_half_cosine

SCRATCH = "same network from scratch"


@dataclass(frozen=True)
class ScratchConfig:
    """How to train on labels.

    Attributes:
        seeds: Number of networks; 0 leaves the row out.
        steps: Most optimiser steps; validation chooses how many are taken.
        batch_size: Windows a step.
        lr: Peak learning rate of AdamW (warm-up over a tenth of the steps, half cosine).
        weight_decay: Of AdamW.
        check_every: Steps between looks at the validation block.
    """

    seeds: int = 3
    steps: int = 400
    batch_size: int = 64
    lr: float = 5e-4
    weight_decay: float = 0.05
    check_every: int = 25

    def __post_init__(self) -> None:
        check_settings("scratch", self, {"seeds weight_decay": "≥ 0", "check_every batch_size": "≥ 1", "lr": "> 0"})
        if self.check_every > self.steps:
            raise EarthSSLError(
                f"scratch: expected check_every ≤ steps, got check_every {self.check_every} and steps {self.steps}"
            )


N = TypeVar("N", bound=nn.Module)


@dataclass(frozen=True)
class Learnt(Generic[N]):
    """A network trained on labels.

    Attributes:
        network: Trained on everything but the test block.
        steps: For so many steps, which validation chose.
        score: Of the network trained so long on the training block, on validation; smaller is better.
    """

    network: N
    steps: int
    score: float


def learn(
    make: Callable[[], N],
    loss: Callable[[N, np.ndarray], Tensor],
    score: Callable[[N], float],
    train: np.ndarray,
    fit: np.ndarray | None,
    config: ScratchConfig,
    seed: int,
) -> Learnt[N]:
    """Return a network whose number of steps was chosen on validation, trained anew on all that it may see, if asked.

    Args:
        make: Returns the network before training, its weights drawn from torch's generator, which is seeded here.
        loss: Of the network on some samples.
        score: Of the network on validation; smaller is better.
        train: Samples to choose on, (n,).
        fit: Samples of the second training: those of train and validation, (n,); None: the network of the first
            training stays, with the weights that it had when validation was best.
        config: How to train.
        seed: Of the weights and of the order of the samples.

    Raises:
        EarthSSLError: If no score is finite.
    """

    def new() -> N:
        torch.manual_seed(key(seed, "scratch") & (2**63 - 1))
        return make()

    share = warmup_and_half_cosine(config.steps, max(1, config.steps // 10), after_warmup=False)
    schedule = Schedule(config.steps, config.batch_size, share, clip=1.0)

    def training(network: N, samples: np.ndarray, block: str, schedule: Schedule, purpose: str) -> Training:
        groups, order = by_decay(network.parameters(), config.lr, config.weight_decay), (seed, f"scratch {block}")
        label = f"scratch {seed}, {purpose}"
        return Training(network, groups, lambda chosen: loss(network, chosen), samples, schedule, order, label)

    network = new()
    selecting = training(network, train, "train", schedule, "select")
    best = best_on_validation(selecting, lambda: score(network), Looks(config.check_every))
    if best is None:
        raise EarthSSLError(f"scratch: the network of seed {seed} diverged (no finite score); lower scratch.lr")
    if fit is None:
        network.load_state_dict(best.weights)
    else:
        network = new()
        # Warm-up and cosine are those of the first training, which this one follows to its best step.
        for _ in training(network, fit, "fit", replace(schedule, steps=best.steps), "refit"):
            pass
    network.eval()
    return Learnt(network, best.steps, best.score)
