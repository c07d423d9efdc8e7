"""The one optimiser loop on labels: AdamW on samples in a seeded order, and what validation keeps of it.

Networks from scratch, fine-tuned ones and heads trained by gradient go through it; they differ in their parameter
groups, their schedule, and in whether they keep the best weights or are trained anew for the best number of steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim import AdamW

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.progress import Track, track
from ...ssl.common.randomness import permutation

Share = Callable[[int], float]  # of each group's own learning rate, by step from 0


def constant(step: int) -> float:
    """Return 1 at every step."""
    return 1.0


def warmup_and_half_cosine(steps: int, warmup: int, *, after_warmup: bool) -> Share:
    """Return the lesser of a linear warm-up to 1 and a half cosine that is 0 at the last step.

    Args:
        steps: Of the training.
        warmup: Steps to the full rate.
        after_warmup: Whether the cosine begins when the warm-up has ended, or with the first step.
    """

    def share(step: int) -> float:
        past = max(0, step + 1 - warmup) / (steps - warmup) if after_warmup else step / steps
        return min((step + 1) / warmup, 0.5 * (1 + math.cos(math.pi * min(1.0, past))))

    return share


def by_decay(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Return two groups of parameters: matrices, which decay, and vectors, which do not."""
    every = list(parameters)
    return [
        {"params": [p for p in every if p.ndim > 1], "lr": lr, "weight_decay": weight_decay},
        {"params": [p for p in every if p.ndim <= 1], "lr": lr, "weight_decay": 0.0},
    ]


@dataclass(frozen=True)
class Schedule:
    """How a network is trained.

    Attributes:
        steps: Optimiser steps.
        batch_size: Samples a step; all of them where there are fewer.
        share: Of each group's learning rate, by step.
        clip: Largest norm of the gradient; None: any.
    """

    steps: int
    batch_size: int
    share: Share = constant
    clip: float | None = None


class Training:
    """Optimiser steps to loop over once: each item is the number of steps taken so far.

    Every epoch takes the samples in an order of its own, a function of the seed; those that fill no whole batch are
    left out of it.
    """

    def __init__(
        self,
        network: nn.Module,
        groups: list[dict[str, Any]],
        loss: Callable[[np.ndarray], Tensor],
        samples: np.ndarray,
        schedule: Schedule,
        order: tuple[int, str],
        label: str = "",
    ) -> None:
        """Prepare a training.

        Args:
            network: Trained in place.
            groups: Of its parameters, each with lr and weight_decay, see `by_decay`.
            loss: Takes some of the samples.
            samples: What `loss` may be asked for, one number each.
            schedule: How to train.
            order: Seed and name of the order of the samples.
            label: Of the progress bar; empty for none.

        Raises:
            EarthSSLError: If there is no sample.
        """
        if not len(samples):
            what = label or order[1]
            raise EarthSSLError(f"{what}: expected training samples, got none; lengthen the training block")
        self.network, self.loss, self.samples = network, loss, samples
        self.schedule, self.order = schedule, order
        self.optimizer = AdamW(groups)
        self.rates = [float(group["lr"]) for group in self.optimizer.param_groups]
        steps = range(schedule.steps)
        self._steps = track(steps, label) if label else Track(steps, label, Progress(disable=True))

    def begin(self, step: int) -> None:
        """Put the network in training mode before a step, counted from 0."""
        self.network.train()

    def check(self, step: int) -> None:
        """Look at the gradients of a step before they are used; here at nothing."""

    def finish(self) -> None:
        """End after the present step, the bar at 100 %."""
        self._steps.finish()

    def __iter__(self) -> Iterator[int]:
        """Yield the number of steps taken, after each."""
        size = min(self.schedule.batch_size, len(self.samples))
        per_epoch = len(self.samples) // size
        order = np.empty(0, np.int64)
        for step in self._steps:
            epoch, position = divmod(step, per_epoch)
            if position == 0:
                order = permutation(*self.order, epoch, len(self.samples)).numpy()
            share = self.schedule.share(step)
            for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
                group["lr"] = rate * share
            self.begin(step)
            value = self.loss(self.samples[order[position * size : (position + 1) * size]])
            self.optimizer.zero_grad()
            value.backward()
            self.check(step)
            if self.schedule.clip is not None:
                nn.utils.clip_grad_norm_(self.network.parameters(), self.schedule.clip)
            self.optimizer.step()
            yield step + 1


@dataclass(frozen=True, eq=False)
class Best:
    """The network that did best on validation.

    Attributes:
        steps: After so many steps.
        score: Its validation score; smaller is better.
        weights: Its state dict.
        history: Steps and score at each look, before and after it.
    """

    steps: int
    score: float
    weights: dict[str, Tensor]
    history: list[tuple[int, float]]


def best_on_validation(
    training: Training,
    score: Callable[[], float],
    check_every: int,
    *,
    patience: int = 0,
    ends_compete: bool = False,
) -> Best | None:
    """Train, look at validation now and then, and return the best look; None where no score was finite.

    Args:
        training: To be gone through.
        score: Returns the validation score, smaller is better; called in evaluation mode without gradients.
        check_every: Steps between looks.
        patience: Looks without a better score before stopping; 0 never stops early.
        ends_compete: Whether validation looks also before the first step (where that score is not finite, nothing is
            trained) and after the last.
    """
    history: list[tuple[int, float]] = []
    best: Best | None = None
    waited = 0

    def look(steps: int) -> None:
        nonlocal best, waited
        training.network.eval()
        with torch.no_grad():
            found = float(score())
        history.append((steps, found))
        waited += 1
        if found < (best.score if best else math.inf):  # False where training diverged to NaN
            weights = {name: value.detach().clone() for name, value in training.network.state_dict().items()}
            best, waited = Best(steps, found, weights, history), 0

    if ends_compete:
        look(0)
        if best is None:
            return None
    for steps in training:
        if steps % check_every and not (ends_compete and steps == training.schedule.steps):
            continue
        look(steps)
        if patience and waited >= patience:
            training.finish()
    return best
