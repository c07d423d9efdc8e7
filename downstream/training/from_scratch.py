"""A network trained from scratch on the labels alone: what the same architecture does without pretraining."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.progress import track
from ...ssl.common.randomness import key, permutation

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
        if self.seeds < 0 or self.steps < self.check_every or min(self.check_every, self.batch_size) < 1:
            raise EarthSSLError(
                f"scratch: expected seeds ≥ 0, steps ≥ check_every ≥ 1 and batch_size ≥ 1, got {self}; mend them"
            )
        if not self.lr > 0 or self.weight_decay < 0:
            raise EarthSSLError(f"scratch: expected lr > 0 and weight_decay ≥ 0, got {self.lr}, {self.weight_decay}")


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
        make: Returns the network before training, the same one each time.
        loss: Of the network on some samples.
        score: Of the network on validation; smaller is better.
        train: Samples to choose on, (n,).
        fit: Samples of the second training: those of train and validation, (n,); None: the network of the first
            training stays, with the weights that it had when validation was best.
        config: How to train.
        seed: Of the order of the samples.

    Raises:
        EarthSSLError: If no score is finite.
    """
    best_steps, best = 0, np.inf
    weights: dict[str, Tensor] = {}
    network = make()
    for step in _train(network, loss, train, "train", config, seed, f"scratch {seed}, select"):
        if (step + 1) % config.check_every == 0:
            found = score(network)
            if found < best:
                best, best_steps = found, step + 1
                weights = {name: value.detach().clone() for name, value in network.state_dict().items()}
    if not best_steps:
        raise EarthSSLError(f"scratch: the network of seed {seed} diverged (no finite score); lower scratch.lr")
    if fit is None:
        network.load_state_dict(weights)
    else:
        network = make()
        for _ in _train(network, loss, fit, "fit", config, seed, f"scratch {seed}, refit", best_steps):
            pass
    network.eval()
    return Learnt(network, best_steps, best)


def seeded(seed: int) -> None:
    """Seed torch for the weights of a network trained from scratch."""
    torch.manual_seed(key(seed, "scratch") & (2**63 - 1))


def _train(
    network: N,
    loss: Callable[[N, np.ndarray], Tensor],
    samples: np.ndarray,
    block: str,
    config: ScratchConfig,
    seed: int,
    label: str,
    steps: int | None = None,
) -> Iterator[int]:
    """Yield after every step: all that the schedule was made for, or the first `steps` of them."""
    matrices = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=config.lr)
    warmup = max(1, config.steps // 10)
    per_epoch = max(1, len(samples) // config.batch_size)
    for step in track(range(steps or config.steps), label):
        rate = min((step + 1) / warmup, 0.5 * (1 + np.cos(np.pi * min(1.0, step / config.steps))))
        for group in optimizer.param_groups:
            group["lr"] = config.lr * rate
        epoch, position = divmod(step, per_epoch)
        order = permutation(seed, f"scratch {block}", epoch, len(samples)).numpy()
        chosen = samples[order[position * config.batch_size : (position + 1) * config.batch_size]]
        network.train()
        value = loss(network, chosen)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        yield step
