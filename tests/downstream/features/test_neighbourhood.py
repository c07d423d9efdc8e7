"""The raw input of a token: cells by hand, coarser where too many, and the patches around."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from earthssl.downstream.features.patches import PatchGrid, raw_cells, with_neighbours
from earthssl.ssl.store.store import Store


def test_neighbours_by_hand() -> None:
    """Two rows of three tiles, tile 4 of them without a token: 0 where nobody is, round the globe or not."""
    tiles = np.array([0, 1, 2, 3, 5])
    values = (tiles + 1.0)[None, :, None]
    round_globe = with_neighbours(values, tiles, 3, periodic=True)[0]
    assert round_globe[0].tolist() == [0, 0, 0, 3, 1, 2, 6, 4, 0]
    flat = with_neighbours(values, tiles, 3, periodic=False)[0]
    assert flat[0].tolist() == [0, 0, 0, 0, 1, 2, 0, 4, 0]
    assert flat[4].tolist() == [0 + 2, 3, 0, 0, 6, 0, 0, 0, 0]


@pytest.mark.parametrize(("most", "blocks"), [(100, 6), (11, 2), (3, 1)])
def test_too_many_cells_are_averaged_over_square_blocks_of_a_patch(small_store: Path, most: int, blocks: int) -> None:
    """Patches of 2×3 cells over two steps: all six; 2×2 and 2×1; one mean, of the known cells."""
    store = Store(small_store)
    count, steps = len(store.variables), np.array([5, 12])
    fields = store.read(np.arange(20))
    found = raw_cells(fields, PatchGrid(store, (2, 3)), steps, 2, most * count)
    assert found.shape[-1] == 2 * count * blocks
    last = found.reshape(2, -1, 2, count, blocks)[1, 0, 1]
    own = fields[12][:, :2, :3].astype(float)
    parts = {6: np.nan_to_num(own).reshape(count, 6).T, 1: [own], 2: [own[:, :, :2], own[:, :, 2:]]}[blocks]
    expected = np.stack([one if one.ndim == 1 else _mean(one) for one in parts], axis=-1)
    np.testing.assert_allclose(last, expected, atol=1e-6)


def _mean(cells: np.ndarray) -> np.ndarray:
    flat = cells.reshape(len(cells), -1)
    return np.array([one[np.isfinite(one)].mean() if np.isfinite(one).any() else 0 for one in flat])
