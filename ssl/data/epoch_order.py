"""The order of an epoch: a function of (seed, epoch) and of the data, never of the machine or how they are read."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Int
from torch import Tensor

from ..common.randomness import key, permutation

WHOLE_BYTES = 8 * 2**30
BLOCK_BYTES = 64 * 2**20
POOL_BLOCKS = 32


@dataclass(frozen=True)
class Blocks:
    """A shuffle that stays near: what is read together lies together on disk.

    An epoch cuts the windows into blocks of neighbours (at an offset of its own, so that blocks differ from epoch
    to epoch), puts the blocks in random order, and shuffles the windows of `pool` blocks at a time. Every window
    comes exactly once. A batch thus mixes windows of up to `pool` places of the record, and each step of a block
    is read from disk once although every window that overlaps it wants it.

    Attributes:
        size: Windows in a block.
        pool: Blocks that are mixed.
    """

    size: int
    pool: int = POOL_BLOCKS

    def order(self, seed: int, epoch: int, count: int) -> Int[Tensor, " count"]:
        """Return the order of `count` windows in an epoch."""
        offset = (key(seed, "offset of blocks", epoch) & (2**62 - 1)) % self.size
        bounds = [0, *range(offset, count, self.size), count]
        blocks = [torch.arange(a, b) for a, b in pairwise(bounds) if b > a]
        chosen = [blocks[k] for k in permutation(seed, "order of blocks", epoch, len(blocks)).tolist()]
        rank = torch.empty(count, dtype=torch.int64)  # of a window in a shuffle of all: sorts each pool
        rank[permutation(seed, "order", epoch, count)] = torch.arange(count)
        pools = [torch.cat(chosen[k : k + self.pool]) for k in range(0, len(chosen), self.pool)]
        return torch.cat([pool[rank[pool].argsort()] for pool in pools])


def mixed_bytes(count: int, step_bytes: int) -> int:
    """Return the bytes of a part that the order of an epoch goes to and fro in: all, or a pool of blocks."""
    size = count * step_bytes
    return size if size <= WHOLE_BYTES else min(size, POOL_BLOCKS * max(BLOCK_BYTES, step_bytes))


def shuffled(seed: int, epoch: int, count: int, step_bytes: int) -> Int[Tensor, " count"]:
    """Return the order of the windows of a part in an epoch.

    Up to 8 GiB (what a machine keeps in its file cache) all windows are permuted; above, by blocks of 64 MiB, 32
    of them at a time (2 GiB). The rule looks at the size of the part, not at the machine: wherever and however
    the part is read, the same seed gives the same order.

    Args:
        seed: Root of the order.
        epoch: From 0.
        count: Windows.
        step_bytes: Stored size of a step.
    """
    if count * step_bytes <= WHOLE_BYTES:
        return permutation(seed, "order", epoch, count)
    return Blocks(max(1, BLOCK_BYTES // step_bytes)).order(seed, epoch, count)
