"""Shuffles: every window once an epoch, a function of (seed, epoch), near where the part is large."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from earthssl.ssl.common.randomness import permutation
from earthssl.ssl.data.epoch_order import Blocks, shuffled


@pytest.mark.parametrize(("count", "size", "pool"), [(1000, 10, 4), (999, 64, 3), (5, 10, 2), (1, 1, 1), (300, 1, 300)])
def test_every_window_comes_once_an_epoch(count: int, size: int, pool: int) -> None:
    orders = [Blocks(size, pool).order(7, epoch, count) for epoch in range(3)]
    for order in orders:
        assert torch.equal(order.sort().values, torch.arange(count))
    if count > 5:
        assert not torch.equal(orders[0], orders[1])
        assert not torch.equal(orders[0], Blocks(size, pool).order(8, 0, count))
    assert torch.equal(orders[2], Blocks(size, pool).order(7, 2, count))


def test_a_pool_reads_few_blocks_and_mixes_them() -> None:
    order = Blocks(50, 8).order(0, 0, 10_000).numpy()
    ends = [(np.diff(np.sort(order[:k])) > 1).sum() for k in range(300, 401)]  # one block may be short
    assert min(ends) < 8  # what the first pool read is eight runs of neighbours
    steps = np.abs(np.diff(order[:400]))
    assert np.median(steps) > 100  # one window is far from the next
    assert len(np.unique(order[:32] // 50)) > 5  # a batch draws on most blocks of the pool


def test_blocks_are_cut_elsewhere_in_every_epoch() -> None:
    """Or the windows beside an edge would always meet the same company."""
    partners = set()
    for epoch in range(12):
        order = Blocks(10, 1).order(3, epoch, 400).tolist()
        at = order.index(200)
        partners |= {k for k in order[max(0, at - 9) : at + 10] if abs(k - 200) < 10}
    assert min(partners) < 195
    assert max(partners) > 205


def test_the_size_of_the_part_alone_decides() -> None:
    assert torch.equal(shuffled(3, 2, 1000, 8 * 2**20), permutation(3, "order", 2, 1000))
    large = shuffled(3, 2, 1000, 9 * 2**20)
    assert torch.equal(large, Blocks(7).order(3, 2, 1000))
    assert torch.equal(large.sort().values, torch.arange(1000))
