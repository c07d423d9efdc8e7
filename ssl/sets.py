"""Several data sets in one run: which one a batch comes from, and what keeps them from leaking into one another.

One set is home: it has every variable of the encoder, and statistics, splits and golden input of the checkpoint are its
own. The others hold any of its variables on any grid, each normalised by its own statistics. A batch comes from one
set, so that shapes are static for each of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch

from .batch import Batch
from .data import Endless, TrainLoader, Windows
from .errors import EarthSSLError
from .fields import Loading
from .randomness import fold, key, uniform
from .sources.recorded import recorded_seed
from .splits import PARTS, Block, gap_days
from .store import Store

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


def open_stores(home: Store, stores: Mapping[str, SetConfig]) -> dict[str, Store]:
    """Return the stores beside home, by name and in the order of `weights_of`.

    Raises:
        EarthSSLError: If they do not fit together, with all that stands against it.
    """
    wrong: list[str] = []
    opened: dict[str, Store] = {}
    own = stores.get(HOME, SetConfig())
    if own != SetConfig(weight=own.weight):
        wrong.append(f"stores.{HOME}: expected its weight only, as its store is `store`; got {own}")
    for name, config in sorted(stores.items()):
        if name == HOME:
            continue
        if not name.replace("-", "").replace("_", "").isalnum():
            wrong.append(f"stores: expected a name of letters, digits, - and _, got '{name}'")
            continue
        if not config.store:
            wrong.append(f"stores.{name}.store: expected the folder of a training store, got none")
            continue
        try:
            opened[name] = Store(config.store)
        except EarthSSLError as error:
            wrong.append(f"stores.{name}: {error}")
            continue
        wrong += _unlike(home, opened[name], name, config)
    every = {HOME: home, **opened}
    for a, b in combinations(every, 2):
        seeds = {_seed(every[a]), _seed(every[b])}
        if stores.get(a, SetConfig()).world == stores[b].world:
            wrong += _leaks(a, every[a], b, every[b])
        elif len(seeds) == 1 and None not in seeds:
            wrong.append(
                f"stores.{b}.world: expected that of {a}, as both are planets of seed {seeds.pop()}, got "
                f"'{stores[b].world}'"
            )
    if wrong:
        raise EarthSSLError("pretrain.stores: expected sets that train together, but " + "; ".join(wrong))
    return opened


def open_sets(
    stores: Mapping[str, SetConfig], opened: Mapping[str, Store], span: int, seed: int, loading: Loading
) -> list[DataSet]:
    """Return the sets beside home with their windows.

    Args:
        stores: Settings of all sets.
        opened: What `open_stores` returned.
        span: Steps of a window.
        seed: Of the run.
        loading: How the fields are held.

    Raises:
        EarthSSLError: If blocks are too short for a window, in all sets where they are.
    """
    wrong, found = [], []
    for name, store in opened.items():
        own = key(seed, "data set", *name.encode())
        try:
            train, val = (Windows(store, part, span, own, loading) for part in ("train", "val"))
        except EarthSSLError as error:
            wrong.append(f"stores.{name}: {error}")
            continue
        found.append(DataSet(name, stores[name], store, train, val, own))
    if wrong:
        raise EarthSSLError("; ".join(wrong))
    return found


def _unlike(home: Store, other: Store, name: str, config: SetConfig) -> list[str]:
    """Return what keeps a set from being seen by home's encoder."""
    wrong = []
    unknown = [variable for variable in other.variables if variable not in home.variables]
    if unknown:
        wrong.append(
            f"stores.{name}: home lacks {', '.join(unknown)} (it has {', '.join(home.variables)}); prepare the set "
            "without, or home with"
        )
    for variable in (name for name in home.variables if name in other.variables):
        here, there = (_scale_of(store, variable) for store in (home, other))
        if here != there:
            wrong.append(f"stores.{name}: {variable} is in {there}, home's in {here}; prepare both with one version")
    step, own = home.step_days, other.step_days
    if config.step_days is None and _apart(own, step):
        wrong.append(
            f"stores.{name}: its time step is {own:g} days, home's {step:g}; prepare it at home's, or state "
            f"step_days: {own:g}"
        )
    if config.step_days is not None and _apart(own, config.step_days):
        wrong.append(f"stores.{name}.step_days: its time step is {own:g} days, stated were {config.step_days:g}")
    return wrong


def _scale_of(store: Store, variable: str) -> str:
    at = store.variables.index(variable)
    transforms = store.statistics.transforms
    transformed = f", transformed at {transforms[at]:g}" if transforms and transforms[at] else ""
    return f"{store.manifest['units'][at]}{transformed}"


def _apart(a: float, b: float) -> bool:
    return not abs(a - b) <= 0.1 * b


def _seed(store: Store) -> int | None:
    return recorded_seed(store.manifest["attributes"])


def _leaks(a: str, first: Store, b: str, second: Store) -> list[str]:
    """Return which training blocks come too near to the other set's blocks of validation and test."""
    embargo = max(first.splits.embargo_days, second.splits.embargo_days)
    wrong = []
    for trains, train, holds, held in ((a, first, b, second), (b, second, a, first)):
        for part in PARTS[1:]:
            blocks = train.splits.train, getattr(held.splits, part)
            gap = gap_days(*blocks)
            if gap < embargo or gap <= 0:
                near = "meets" if gap <= 0 else "is near"
                wrong.append(
                    f"splits.train of {trains} ({_dates(blocks[0])}) {near} splits.{part} of {holds} "
                    f"({_dates(blocks[1])}): expected {embargo:g} days between them within a world; prepare "
                    "either with other blocks"
                )
    return wrong


def _dates(block: Block) -> str:
    return " … ".join(str(instant.astype("datetime64[D]")) for instant in block)


def describe_sets(
    home: Store, sets: Sequence[DataSet], weights: Sequence[float], seen: Sequence[int]
) -> list[dict[str, Any]]:
    """Return the sets of a run as plain JSON, home first.

    Args:
        home: Home's store.
        sets: The others.
        weights: Of all, home first.
        seen: Batches that came from each.
    """
    stores = [(HOME, home, HOME), *((own.name, own.store, own.config.world) for own in sets)]
    return [
        {
            "name": name,
            "fingerprint": store.fingerprint,
            "weight": weight,
            "batches": count,
            "world": world,
            "source": store.manifest["source"],
            "planet_seed": _seed(store),
            "variables": list(store.variables),
            "grid": str(store.grid),
            "step_days": store.step_days,
            "splits": store.splits.to_json(),
        }
        for (name, store, world), weight, count in zip(stores, weights, seen, strict=True)
    ]
