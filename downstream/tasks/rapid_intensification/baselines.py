"""The rows of rapid intensification that need no fields but climatological SST, in the order of the table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product

import numpy as np

from .models import (
    ISOTONIC,
    PLATT,
    Chances,
    Problem,
    balanced,
    boosting,
    climatology,
    day_call,
    half_day_call,
    logistic,
    recalibrated,
    table,
)

CLIMATOLOGY = "climatology by basin"
DAY_CALL, HALF_DAY_CALL = "yes/no: ΔV24 ≥ threshold", "yes/no: ΔV12 ≥ half of it"
ONLY_CHANGE, TABLE, SEASONAL = "logistic, ΔV12", "table, V × ΔV12", "logistic, V + latitude + season + basin"
TRACK, BOOSTED = "logistic, track", "gradient boosting, track"
BALANCED = "logistic, track, balanced classes, not recalibrated"
UNBEATEN = (CLIMATOLOGY, DAY_CALL, HALF_DAY_CALL, ONLY_CHANGE, TABLE, BALANCED)  # rows that no other is compared with


Models = Mapping[str, Chances]  # what a row's model of each problem says, by the problem's name


def each(problems: Sequence[Problem], make: Callable[[Problem], Chances]) -> Models:
    """Return what a model of each problem says."""
    return {one.name: make(one) for one in problems}


def baselines(
    problems: Sequence[Problem], seeds: int, periods: Sequence[str]
) -> Iterator[tuple[str, Models, int | None]]:
    """Yield name, models and seed of every row that needs no fields but climatological SST.

    Args:
        problems: Events of the same samples.
        seeds: Number of seeds of the trees.
        periods: Of the climatologies of SST to use; the rows of the first are recalibrated too, and those of the
            others are of the first problem only.
    """
    x, all_seeds = problems[0].predictors, range(seeds)
    change = problems[0].samples[["change12"]].fillna(0.0).to_numpy()
    yield CLIMATOLOGY, each(problems, climatology), None
    yield DAY_CALL, each(problems, day_call), None
    yield HALF_DAY_CALL, each(problems, half_day_call), None
    # one slope: nothing to damp
    yield ONLY_CHANGE, each(problems, lambda one: logistic(one, change, costs=(1.0,))), None
    yield TABLE, each(problems, table), None
    yield SEASONAL, each(problems, lambda one: logistic(one, x.season)), None

    def line(name: str, columns: np.ndarray, own: Sequence[Problem]) -> tuple[str, Models, int | None]:
        return name, each(own, lambda one: logistic(one, columns)), None

    def trees(name: str, columns: np.ndarray, own: Sequence[Problem]) -> list[tuple[str, Models, int | None]]:
        return [(name, each(own, lambda one, seed=seed: boosting(one, columns, seed)), seed) for seed in all_seeds]  # type: ignore[misc]

    track = line(TRACK, x.track, problems)
    yield track
    sst = {name: (x.sst[name], problems if k == 0 else problems[:1]) for k, name in enumerate(periods)}
    linear = [line(f"{TRACK} + SST {name}", np.hstack([x.track, own]), of) for name, (own, of) in sst.items()]
    yield from linear
    plain = trees(BOOSTED, x.track, problems)
    yield from plain
    warm = [trees(f"{BOOSTED} + SST {name} + place", np.hstack([x.track, own, x.place]), of)
            for name, (own, of) in sst.items()]  # fmt: skip
    yield from (one for several in warm for one in several)
    best = [*(linear[:1] or [track]), *(warm[0] if warm else plain)]
    for how, (name, models, seed) in product((ISOTONIC, PLATT), best):
        yield f"{name}, {how}", {one.name: recalibrated(one, models[one.name], how) for one in problems}, seed
    yield BALANCED, each(problems, balanced), None
