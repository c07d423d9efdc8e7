"""Several data sets in one run: opened, and kept from leaking into one another.

One set is home: it has every variable of the encoder, and statistics, splits and golden input of the checkpoint are its
own. The others hold any of its variables on any grid, each normalised by its own statistics. A batch comes from one
set, so that shapes are static for each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations, product
from typing import Any

from ..common.errors import EarthSSLError
from ..common.randomness import key
from ..fields.splits import PARTS, Block, gap_days
from ..sources.planet.recorded import recorded_seed
from ..store.store import Store
from .loading import Loading
from .mixture import HOME, DataSet, SetConfig
from .windows import Windows


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
        for own, part in product(train.splits.train_blocks, PARTS[1:]):
            blocks = own, getattr(held.splits, part)
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
