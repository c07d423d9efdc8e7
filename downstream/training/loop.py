"""The one optimiser loop on labels: AdamW on samples in a seeded order, and what validation keeps of it.

Networks from scratch, fine-tuned ones and heads trained by gradient go through it; they differ in their parameter
groups, their schedule, and in whether they keep the best weights or are trained anew for the best number of steps.
A training that is given a file saves its state there at every look at validation, and goes on from it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress
from torch import Tensor, nn
from torch.optim import AdamW
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.progress import Track, track
from ...ssl.common.randomness import permutation
from .saved_state import read_state, write_state

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
        self.first = 0  # step to go on from
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
            if step < self.first:
                continue
            epoch, position = divmod(step, per_epoch)
            if position == 0 or not len(order):
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
        averaged: Whether it is the running mean of the weights, not the weights of that step.
    """

    steps: int
    score: float
    weights: dict[str, Tensor]
    history: list[tuple[int, float]]
    averaged: bool = False


@dataclass(frozen=True)
class Looks:
    """When validation looks, and at what.

    Attributes:
        every: Steps between looks.
        early: More looks, after so many steps; they do not count for `patience`.
        patience: Looks without a better score before stopping; 0 never stops early.
        ends: Whether validation looks also before the first step (where that score is not finite, nothing is trained)
            and after the last.
        average: Decay of a running mean of the weights (torch.optim.swa_utils) that competes at every look with the
            weights themselves, and so is taken only where it helps; 0 for none.
    """

    every: int
    early: Sequence[int] = ()
    patience: int = 0
    ends: bool = False
    average: float = 0.0

    def due(self, steps: int, last: int) -> bool:
        """Return whether validation looks after so many steps, of `last` in all."""
        return not steps % self.every or steps in self.early or (self.ends and steps == last)


def best_on_validation(
    training: Training, score: Callable[[], float], looks: Looks, saved: Path | None = None
) -> Best | None:
    """Train, look at validation now and then, and return the best look; None where no score was finite.

    Args:
        training: To be gone through.
        score: Returns the validation score, smaller is better; called in evaluation mode without gradients.
        looks: When to look.
        saved: File of the state at the last look, written at each and gone on from where it is there.
    """
    watch = _Watch(training, score, looks)
    if saved is not None and (state := read_state(saved)) is not None:
        watch.restore(state)
    elif looks.ends:
        watch.look(0)
        if watch.best is None:
            return None
    for steps in training:
        watch.follow()
        if not looks.due(steps, training.schedule.steps):
            continue
        watch.look(steps)
        if looks.patience and watch.waited >= looks.patience:
            training.finish()
        elif saved is not None:
            write_state(saved, watch.state(steps))
    return watch.best


@dataclass(eq=False)
class _Watch:
    """What validation saw of a training so far."""

    training: Training
    score: Callable[[], float]
    looks: Looks
    history: list[tuple[int, float]] = field(default_factory=list)
    best: Best | None = None
    waited: int = 0

    def __post_init__(self) -> None:
        decay = self.looks.average
        self.average = AveragedModel(self.training.network, multi_avg_fn=get_ema_multi_avg_fn(decay)) if decay else None
        if self.average is not None:
            self.average.update_parameters(self.training.network)  # the first one is a copy: the mean begins here

    def follow(self) -> None:
        """Take the weights after a step into their mean."""
        if self.average is not None:
            self.average.update_parameters(self.training.network)

    def look(self, steps: int) -> None:
        """Score the weights and their mean, and keep the better of them where it is the best so far."""
        network = self.training.network
        before = self.best
        found = self._judged(steps, averaged=False)
        if self.average is not None and steps:
            own = _copied(network)
            network.load_state_dict(self.average.module.state_dict())
            mean = self._judged(steps, averaged=True)
            found = min((one for one in (found, mean) if not math.isnan(one)), default=math.nan)
            network.load_state_dict(own)
        self.history.append((steps, found))
        if self.best is not before:
            self.waited = 0
        elif steps % self.looks.every == 0:
            self.waited += 1

    def _judged(self, steps: int, averaged: bool) -> float:
        self.training.network.eval()
        with torch.no_grad():
            found = float(self.score())
        if found < (self.best.score if self.best else math.inf):  # False where training diverged to NaN
            self.best = Best(steps, found, _copied(self.training.network), self.history, averaged)
        return found

    def state(self, steps: int) -> dict[str, Any]:
        """Return all that going on after a look takes."""
        best, training = self.best, self.training
        return {
            "steps": steps,
            "network": training.network.state_dict(),
            "optimizer": training.optimizer.state_dict(),
            "average": self.average.state_dict() if self.average else None,
            "best": None if best is None else [best.steps, best.score, best.weights, best.averaged],
            "history": self.history,
            "waited": self.waited,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state: order and drop-path are functions of the step, so nothing else is to be kept."""
        self.training.network.load_state_dict(state["network"])
        self.training.optimizer.load_state_dict(state["optimizer"])
        self.training.first = state["steps"]
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.history[:] = [(int(steps), float(score)) for steps, score in state["history"]]
        self.waited = state["waited"]
        if state["best"] is not None:
            steps, score, weights, averaged = state["best"]
            self.best = Best(steps, score, weights, self.history, averaged)


def _copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in network.state_dict().items()}
