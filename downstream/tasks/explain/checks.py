"""Checks of attribution maps: deletion and insertion, random weights, and how a map compares with another.

A map here is one number for each column of cells: a variable and place, all input steps summed, (variable, row,
column).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.integrate import trapezoid
from scipy.stats import rankdata
from torch import Tensor, nn

from ....ssl.common.randomness import key
from ....ssl.model.encoder import Encoder
from ...metrics.seasonal import pearson
from .attribution import AT_ONCE, Function, evaluate

FRACTIONS = np.linspace(0, 1, 17) ** 2  # of the observed blocks; closer where the first ones go


@dataclass(frozen=True, eq=False)
class Curves:
    """What the index does while blocks are taken away or given, the most important first.

    Attributes:
        deletion: Change from the climatology that is left, in the direction of the whole change, K,
            (sample, fraction).
        insertion: Change that is there with these blocks alone, same shape.
        change: Size of the whole change |f(x) - f(climatology)|, K, (sample,).
    """

    deletion: np.ndarray
    insertion: np.ndarray
    change: np.ndarray

    def area(self, kind: str) -> np.ndarray:
        """Return the area under "deletion" or "insertion" over the fraction of blocks, K, (sample,)."""
        return np.asarray(trapezoid(getattr(self, kind), FRACTIONS, axis=1))


def curves(
    function: Function, values: Tensor, at: Tensor, valid: Tensor, maps: np.ndarray, regions: np.ndarray
) -> Curves:
    """Return deletion and insertion curves (Petsiuk et al. 2018) in the order of the maps.

    Blocks go to the climatology (or come from it) in the order of their attribution times the sign of the sample's
    change: what speaks for it goes first, what speaks against it last. Whole blocks, because fields with single cells
    taken out are like nothing that the network has seen: it can be driven anywhere with them.

    Args:
        function: Any.
        values, at, valid: The samples, and where they were observed.
        maps: Of each sample, (sample, variable, row, column).
        regions: Number of the block that each cell lies in, from 0, (variable, row, column).
    """
    base = evaluate(function, torch.zeros_like(values), at)
    change = evaluate(function, values, at) - base
    sign = torch.sign(change)
    block = torch.from_numpy(regions).flatten()
    columns = valid.any(1).flatten(1)
    empty = torch.zeros(len(values), int(block.max()) + 1)
    seen = empty.index_add(1, block, columns.float()) > 0
    signed = torch.from_numpy(np.ascontiguousarray(maps)).float().flatten(1) * columns * sign[:, None]
    score = torch.where(seen, empty.index_add(1, block, signed), torch.tensor(-torch.inf))
    order = torch.argsort(score, dim=1, descending=True, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1]).expand_as(order))
    limits = torch.from_numpy(FRACTIONS) * seen.sum(1, keepdim=True)  # (sample, fraction)
    found = np.empty((2, len(values), len(FRACTIONS)))
    per = max(1, AT_ONCE // len(FRACTIONS))
    for k in range(0, len(values), per):
        part = slice(k, k + per)
        taken = (rank[part, None] + 0.5 < limits[part, :, None])[..., block]  # (sample, fraction, column)
        shape = (*taken.shape[:2], 1, *values.shape[2:])
        where = at[part].repeat_interleave(len(FRACTIONS))
        for kind, kept in enumerate((~taken, taken)):
            shown = (values[part, None] * kept.reshape(shape)).flatten(0, 1)
            index = evaluate(function, shown, where).reshape(-1, len(FRACTIONS))
            found[kind, part] = ((index - base[part, None]) * sign[part, None]).numpy()
    return Curves(found[0], found[1], change.abs().numpy())


def randomised(encoder: Encoder, layer: int, seed: int) -> Iterator[tuple[str, Encoder]]:
    """Yield the encoder with ever more of its weights drawn anew, from the block that is read down to the input.

    The cascading randomisation of Adebayo et al. (2018, arXiv 1810.03292).
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key(seed, "randomised weights") & (2**63 - 1))
        fresh = encoder.config.build(encoder.variables)
    made = copy.deepcopy(encoder).eval().requires_grad_(False)
    _renew(made.norm, fresh.norm)
    for k in range(layer, -1, -1):
        _renew(made.blocks[k], fresh.blocks[k])
        yield f"block {k + 1}" if k == layer else f"blocks {k + 1}–{layer + 1}", copy.deepcopy(made)
    _renew(made.embedding, fresh.embedding)
    _renew(made.encodings, fresh.encodings)
    yield "all weights", made


def _renew(module: nn.Module, fresh: nn.Module) -> None:
    module.load_state_dict(fresh.state_dict())


def rank_correlations(first: np.ndarray, second: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of the sizes of two sets of maps over the known columns, (sample,).

    Args:
        first, second: Shape (sample, variable, row, column).
        known: Shape (variable, row, column).
    """
    x, y = (rankdata(np.abs(maps[:, known]), axis=1) for maps in (first, second))
    return np.nan_to_num(pearson(x, y))  # 0 where one is constant


def weighted_correlation(first: np.ndarray, second: np.ndarray, weight: np.ndarray) -> float:
    """Return Pearson's correlation of two maps with a weight for each cell; NaN where one is constant."""
    w = weight / weight.sum()
    x, y = first - (w * first).sum(), second - (w * second).sum()
    power = (w * x * x).sum() * (w * y * y).sum()
    return float((w * x * y).sum() / np.sqrt(power)) if power > 0 else float("nan")


def enrichment(mass: np.ndarray, inside: np.ndarray, area: np.ndarray) -> float:
    """Return the share of |attribution| in a region over the region's share of the area; 1 is no preference.

    Args:
        mass: Attribution of each known column, (column,).
        inside: Which of them lie in the region.
        area: Of each.
    """
    size = np.abs(mass)
    total = size.sum()
    return float(size[inside].sum() / total / (area[inside].sum() / area.sum())) if total > 0 else float("nan")
