"""Jigsaw: in which order are these tiles shown? (Noroozi & Favaro 2016, arXiv 1603.09246, on the sphere.)

Any rows × columns of tiles; a class is a permutation. Few tiles take all permutations, many a set in which any
two permutations differ in as many places as possible. Trivial cues and how they are closed: see tiles.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from itertools import permutations
from math import factorial

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...ssl.common.errors import EarthSSLError
from ...ssl.common.randomness import fold, key, uniform
from ...ssl.fields.batch import Batch
from ...ssl.training.objective import Context, ObjectiveConfig
from .tile_borders import KINDS, across
from .tiles import TileTask, Tiling

NAME = "jigsaw"
MAX_PERMUTATIONS = 10_000
MAX_TILES = 64
ALL_OF = 9  # tiles up to which every permutation is a candidate of the set: 9! = 362 880
CANDIDATES = 40_000  # drawn ones beyond that


@dataclass(frozen=True)
class JigsawConfig(ObjectiveConfig):
    """Settings of jigsaw.

    Attributes:
        weight: Weight of the loss.
        tiles: The tiling to be put in order.
        permutations: Most classes; all permutations of the tiles where there are no more than that.
        hidden: Width of the head's hidden layer.
    """

    weight: float = 1.0
    tiles: Tiling = field(default_factory=Tiling)
    permutations: int = 100
    hidden: int = 128

    def __post_init__(self) -> None:
        if not 2 <= self.permutations <= MAX_PERMUTATIONS:
            raise EarthSSLError(f"{NAME}.permutations: expected 2 to {MAX_PERMUTATIONS}, got {self.permutations}")
        if self.tiles.count > MAX_TILES:
            raise EarthSSLError(f"{NAME}.tiles.shape: expected at most {MAX_TILES} tiles, got {self.tiles.shape}")
        if self.hidden < 1:
            raise EarthSSLError(f"{NAME}.hidden: expected a width ≥ 1, got {self.hidden}")

    def build(self, context: Context) -> Jigsaw:
        """Return the objective.

        Raises:
            EarthSSLError: If the tiles do not fit the grid, patch or window, or stand closer than one tile
                where there is room.
        """
        self.tiles.check(context, f"{NAME}.tiles")
        return Jigsaw(self, context)


@lru_cache(maxsize=8)
def arrangements(tiles: int, count: int) -> np.ndarray:
    """Return permutations of the tiles that differ in many places, (arrangement, tile); all if there are few.

    Greedy and always the same: from the identity on, the next is the candidate whose nearest chosen one is
    farthest in Hamming distance, of those the one farthest from all chosen together, of those the first.
    Candidates are all permutations of up to 9 tiles; beyond, the shifts (which differ everywhere) and drawn ones.
    """
    if tiles <= ALL_OF:
        everything = np.array(list(permutations(range(tiles))), np.uint8)
        if factorial(tiles) <= count:
            return everything
        pool = np.ascontiguousarray(everything.T)
    else:
        shifts = (np.arange(tiles)[:, None] + np.arange(tiles)) % tiles
        keys = fold(torch.full((CANDIDATES,), key(0, f"{NAME} candidates", tiles)), torch.arange(CANDIDATES))
        drawn = uniform(keys, tiles).argsort(dim=1, stable=True).numpy()
        pool = np.ascontiguousarray(np.concatenate([shifts, drawn]).T.astype(np.uint8))
    chosen = [0]
    nearest = np.full(pool.shape[1], tiles, np.uint8)
    together = np.zeros(pool.shape[1], np.int32)
    while len(chosen) < count:
        distance = np.zeros_like(nearest)
        for row in pool:
            distance += row != row[chosen[-1]]
        np.minimum(nearest, distance, out=nearest)
        together += distance
        best = np.flatnonzero(nearest == nearest.max())
        chosen.append(int(best[together[best].argmax()]))
    return pool.T[chosen]


class Jigsaw(TileTask):
    """Classify the permutation of a tiling."""

    table: Tensor

    def __init__(self, config: JigsawConfig, context: Context) -> None:
        table = arrangements(config.tiles.count, config.permutations)
        super().__init__(NAME, config.tiles, config.tiles.count, len(table), config.hidden, context)
        self.register_buffer("table", torch.from_numpy(table.astype(np.int64)), persistent=False)

    def which(self, batch: Batch, picks: Int[Tensor, " batch"]) -> Int[Tensor, "batch shown"]:
        """Return the tiles in the picked order."""
        return self.table[picks]

    def mismatch(self, shown: Batch) -> Float[Tensor, "sample class number"]:
        """Return the mismatch summed over neighbours in a row, and in a column, of each arrangement put in order."""
        values, valid = (x.unflatten(0, (-1, self.shown)) for x in (shown.values, shown.valid))
        place = torch.arange(self.shown, device=values.device).view(self.tiling.shape)
        where = self.table.argsort(1)  # where each tile of the map is shown: row c undoes arrangement c
        numbers = []
        for way, ones, others in (((0, 1), place[:, :-1], place[:, 1:]), ((1, 0), place[:-1], place[1:])):
            pairs = across(values[:, :, None], valid[:, :, None], values[:, None], valid[:, None], way)
            total = values.new_zeros(len(values), self.classes, len(KINDS))
            for one, other in zip(ones.flatten(), others.flatten(), strict=True):
                total += pairs[:, where[:, one], where[:, other]]
            numbers.append(total)
        return torch.cat(numbers, -1)
