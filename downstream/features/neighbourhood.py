"""The raw input of a token: the cells of its patch over the window, and of the patches around it."""

from __future__ import annotations

import numpy as np

from .patches import PatchGrid


def raw_cells(
    fields: np.ndarray, grid: PatchGrid, steps: np.ndarray, window: int, most: int | None = None
) -> np.ndarray:
    """Return what an encoder sees of each patch over the window that ends at each step, (n, place, value); 0 = missing.

    Args:
        fields: Of the store, normalised, (time, variable, row, column).
        grid: How the globe is cut.
        steps: Last steps, (n,).
        window: Steps.
        most: Values at most; of more, cells are averaged over square blocks within the patch.
    """
    variables = fields.shape[1]
    factor = 1
    while most is not None and window * variables * _blocks(grid, factor) > most and factor < max(grid.patch):
        factor += 1
    parts = [_coarse(grid.cut(fields[steps - back]), grid, variables, factor) for back in range(window)[::-1]]
    return np.concatenate(parts, axis=-1)


def block_means(fields: np.ndarray, factor: int) -> np.ndarray:
    """Return the means of the known cells of square blocks, float32 (…, row, column); 0 where none is known.

    Args:
        fields: Shape (…, row, column), NaN where unknown.
        factor: Side of a block in cells; blocks at the lower and right edges may be smaller.
    """
    rows, columns = (np.arange(0, size, factor) for size in fields.shape[-2:])
    known = np.isfinite(fields)

    def summed(values: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.add.reduceat(values, rows, axis=-2), columns, axis=-1)

    counts = np.maximum(summed(known.astype(np.float32)), 1)
    return np.asarray(summed(np.where(known, fields, 0)) / counts, np.float32)


def with_neighbours(values: np.ndarray, tiles: np.ndarray, columns: int, periodic: bool) -> np.ndarray:
    """Return each place's features beside those of its eight neighbours, 0 where there is none, (n, place, 9 feature).

    Args:
        values: Shape (n, place, feature).
        tiles: Number of each place's patch, row × columns + column.
        columns: Patches in a row.
        periodic: Whether the last column borders on the first.
    """
    row, column = np.divmod(tiles, columns)
    place = {int(tile): k for k, tile in enumerate(tiles)}
    padded = np.concatenate([values, np.zeros_like(values[:, :1])], axis=1)  # the last one: nobody
    parts = []
    for down in (-1, 0, 1):
        for across in (-1, 0, 1):
            r, c = row + down, column + across
            c = c % columns if periodic else c
            inside = (r >= 0) & (c >= 0) & (c < columns)
            wanted = np.where(inside, r * columns + c, -1)
            parts.append(padded[:, [place.get(int(tile), len(tiles)) for tile in wanted]])
    return np.concatenate(parts, axis=-1)


def _blocks(grid: PatchGrid, factor: int) -> int:
    rows, columns = grid.patch
    return -(-rows // factor) * -(-columns // factor)


def _coarse(cells: np.ndarray, grid: PatchGrid, variables: int, factor: int) -> np.ndarray:
    """Return means over blocks of the known cells of each patch, (n, place, value); 0 where none is known."""
    if factor == 1:
        return np.nan_to_num(cells)
    means = block_means(cells.reshape(*cells.shape[:2], variables, *grid.patch), factor)
    return means.reshape(*cells.shape[:2], -1)
