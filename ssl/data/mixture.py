"""Batches of several data sets: which set each comes from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..common.errors import EarthSSLError
from ..common.randomness import fold, key, uniform
from ..fields.batch import Batch
from ..store.store import Store
from .loaders import Endless, TrainLoader
from .windows import Windows

HOME = "home"

STRIDE = 4096  # batches drawn at once


@dataclass(frozen=True)
class SetConfig:
    """A data set of a run.

    Attributes:
        store: Folder of its training store; not for the set named home, which is `store` of the run.
        weight: Its share of the batches, relative to the other sets'.
        world: Name of the world whose weather it holds; the default is home's. Within a world no training block may
            come near another set's validation or test block. A synthetic planet, or a free run of a climate model, is
            a world of its own: its weather of a date says nothing of another's.
        step_days: Spacing of its times, to be stated where it is not home's: a step then means another lag.
    """

    store: str = ""
    weight: float = 1.0
    world: str = HOME
    step_days: float | None = None

    def __post_init__(self) -> None:
        if not (self.weight > 0 and math.isfinite(self.weight)):
            raise EarthSSLError(f"stores: expected a weight above 0, got {self.weight}; leave the data set out")


@dataclass(frozen=True)
class DataSet:
    """A data set beside home, opened.

    Attributes:
        name: As in the config.
        config: Its settings.
        store: Where it lies.
        train, val: Its windows.
        seed: Root of its randomness: no set repeats another's draws.
    """

    name: str
    config: SetConfig
    store: Store
    train: Windows
    val: Windows
    seed: int


class Draws:
    """Which set each batch comes from: a function of (seed, batch number).

    Its own number, the count of earlier batches of the same set, follows from the batch's number alone.
    """

    def __init__(self, seed: int, weights: Sequence[float]) -> None:
        self._key = key(seed, "data set")
        self._bounds = np.cumsum(weights)[:-1] / np.sum(weights)
        self._sets = np.zeros(0, np.int64)
        self._counts = np.zeros((1, len(weights)), np.int64)  # row k: of each set among the batches before k

    def at(self, number: int) -> tuple[int, int]:
        """Return the set of the batch of that number, and the batch's number within the set."""
        self._draw(number + 1)
        which = int(self._sets[number])
        return which, int(self._counts[number, which])

    def counts(self, batches: int) -> list[int]:
        """Return how many of the first batches come from each set."""
        self._draw(batches)
        return [int(count) for count in self._counts[batches]]

    def _draw(self, batches: int) -> None:
        known = len(self._sets)
        if batches <= known:
            return
        numbers = torch.arange(known, -(-batches // STRIDE) * STRIDE)
        chance = uniform(fold(torch.full_like(numbers, self._key), numbers), 1)[:, 0].double().numpy()
        new = np.searchsorted(self._bounds, chance, side="right")
        steps = np.eye(self._counts.shape[1], dtype=np.int64)[new].cumsum(0)
        self._counts = np.concatenate([self._counts, self._counts[-1] + steps])
        self._sets = np.concatenate([self._sets, new])


class Mixture(Endless):
    """The batches of several data sets."""

    def __init__(
        self, loaders: Sequence[TrainLoader], draws: Draws, first: Callable[[], int] = lambda: 0, threaded: bool = False
    ) -> None:
        """Mix.

        Args:
            loaders: Of each set.
            draws: Which of them is asked.
            first: Asked when iteration starts: the number of batches already trained on.
            threaded: Whether a thread makes the next batch while this one is trained on.
        """
        super().__init__(first, threaded)
        self.loaders, self.draws = loaders, draws
        self.depth = min(loader.depth for loader in loaders)

    def get(self, number: int) -> Batch:
        """Return this rank's slice of the run's batch of that number."""
        which, own = self.draws.at(number)
        return self.loaders[which].get(own)

    def ahead(self, number: int) -> None:
        """Begin to read this rank's slice of a batch, without waiting for it."""
        which, own = self.draws.at(number)
        self.loaders[which].ahead(own)


def weights_of(stores: Mapping[str, SetConfig]) -> list[float]:
    """Return the weights of the sets, home first, the others by name: their order in a config draws nothing else."""
    return [stores.get(HOME, SetConfig()).weight, *[stores[name].weight for name in sorted(stores) if name != HOME]]
