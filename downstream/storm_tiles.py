"""Storm present in tile: whether a storm's centre lies in a patch at the last step of a window.

The probe is one logistic regression shared by all tiles, on the frozen token of the tile: alone, and beside the
log odds of the climatology, how often each tile holds a storm in each calendar month. That is what a token's place
and season give away, so it is what the probe must beat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pandas as pd

from ..ssl.errors import EarthSSLError, nearest
from ..ssl.grid import LatLonGrid
from ..ssl.tokens import Patches, padded
from .heads import LogisticHead, Samples, choose, one_hot
from .paired import compare
from .probability import Ranking

COLUMNS = ("storm", "time", "lat", "lon")
CLIMATOLOGY = "tile and month"
TOKEN = "logistic on the token"
BOTH = "logistic on token, tile and month"


def storm_labels(tracks: pd.DataFrame, times: np.ndarray, grid: LatLonGrid, patch: tuple[int, int]) -> np.ndarray:
    """Return whether a storm's centre lies in each tile at each time, bool (time, tile).

    Tiles are counted as `Patches.cell` counts them: row × columns + column of the padded grid. A centre belongs to
    the cell whose bounds hold it (the northern and western ones are its own); outside the grid it is left out.

    Args:
        tracks: Columns storm, time (UTC), lat (degrees north), lon (degrees east, any turn).
        times: Last step of each window, datetime64, (time,).
        grid: Cells.
        patch: Rows and columns of a tile.

    Raises:
        EarthSSLError: If a column or a position is missing, or no record of the tracks is at one of the times.
    """
    for name in COLUMNS:
        if name not in tracks:
            raise EarthSSLError(
                f"tracks: expected the columns {', '.join(COLUMNS)}, got {', '.join(map(str, tracks.columns))}; "
                f"'{name}' is missing.{nearest(name, map(str, tracks.columns))}"
            )
    lat, lon = (tracks[name].to_numpy(dtype=float) for name in ("lat", "lon"))
    if not (np.isfinite(lat).all() and np.isfinite(lon).all() and (np.abs(lat) <= 90).all()):
        raise EarthSSLError("tracks: expected finite positions with latitudes within ±90°, got others; drop those rows")
    wanted = pd.Index(np.asarray(times).astype("datetime64[ns]"))
    at = wanted.get_indexer(pd.Index(tracks["time"].to_numpy().astype("datetime64[ns]")))
    if len(tracks) and (at < 0).all():
        first, last = tracks["time"].min(), tracks["time"].max()
        raise EarthSSLError(
            f"tracks: expected records at some of the times {wanted[0]} … {wanted[-1]}, got {first} … {last} and none "
            "that coincides; choose tracks of this period and step"
        )
    row, column = _cell(grid, lat, lon)
    inside = (at >= 0) & (row >= 0) & (column >= 0)
    rows, columns = padded(grid.shape[0], patch[0]) // patch[0], padded(grid.shape[1], patch[1]) // patch[1]
    labels = np.zeros((len(wanted), rows * columns), dtype=bool)
    labels[at[inside], row[inside] // patch[0] * columns + column[inside] // patch[1]] = True
    return labels


def _cell(grid: LatLonGrid, lat: np.ndarray, lon: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and column of each position, -1 where the grid does not reach."""
    rows, edges = grid.shape[0], grid.lat_bounds[::-1]
    row = rows - np.searchsorted(edges, lat, side="left")
    row = np.where(lat == edges[0], rows - 1, np.where((row >= 0) & (row < rows), row, -1))
    # Degrees east of the western edge, so that the search never meets the date line.
    east = (lon - grid.lon_bounds[0]) % 360
    column = np.searchsorted(grid.lon_bounds - grid.lon_bounds[0], east, side="right") - 1
    return row, np.where(column < grid.shape[1], column, -1)


def last_tiles(patches: Patches) -> np.ndarray:
    """Return the tile number (`storm_labels`' columns) of each token of the last step, in their order."""
    last = patches.step == patches.shape[0] - 1
    return np.asarray(patches.cell[last])


def tile_probe(
    tokens: np.ndarray,
    labels: np.ndarray,
    times: np.ndarray,
    blocks: Mapping[str, np.ndarray],
    *,
    most: int = 40_000,
    costs: Sequence[float] = (1e-4, 1e-2, 1.0),
    unit: str = "Y",
    draws: int = 1000,
    seed: int = 0,
) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, np.ndarray]]:
    """Return scores, paired differences from the climatology, and the test chances of the probe on each tile's token.

    Args:
        tokens: Frozen features, (time, tile, feature).
        labels: Storm or not, (time, tile).
        times: datetime64, (time,).
        blocks: Masks "train", "val", "test" over the times.
        most: Most training samples: beyond, every k-th time is taken, so that they lie apart in time.
        costs: C of the logistic regression, chosen on validation.
        unit: What is drawn by the bootstrap: "Y" (years), "M", "W" or "D" of the test block.
        draws, seed: Of the bootstrap.

    Returns:
        Columns row, metric (auc, average_precision, brier_skill), value, low, high; row, reference, metric, value,
        low, high, verdict; and the chances by row, (time, tile).

    Raises:
        EarthSSLError: If shapes differ, or a block holds no storm or nothing but storms.
    """
    if tokens.shape[:2] != labels.shape or len(times) != len(labels):
        raise EarthSSLError(
            f"expected tokens (time, tile, feature), labels (time, tile) and times of the same, got {tokens.shape}, "
            f"{labels.shape}, {times.shape}"
        )
    for name in ("train", "val", "test"):
        storms = labels[blocks[name]]
        if not storms.any() or storms.all():
            raise EarthSSLError(
                f"storm in tile: expected tiles with and without storms in the {name} block, got "
                f"{int(storms.sum())} of {storms.size} with one; lengthen the block"
            )
    month = times.astype("datetime64[M]").astype(int) % 12
    climatology = _tile_climatology(labels[blocks["train"]], month[blocks["train"]])[month]
    odds = np.log(climatology / (1 - climatology))[..., None]
    chances = {CLIMATOLOGY: climatology[blocks["test"]]}
    for name, features in ((TOKEN, tokens), (BOTH, np.concatenate([tokens, odds], axis=-1))):
        chances[name] = _chances(LogisticHead(tuple(costs)), features, labels, blocks, most)
    truth = labels[blocks["test"]]
    units = np.repeat(times[blocks["test"]].astype(f"datetime64[{unit}]").astype(int), truth.shape[1])
    flat = np.stack([p.ravel() for p in chances.values()])
    scores, differences = [], []
    for metric, one in _statistics(flat, truth.ravel()).items():
        found, paired = compare(one, units, list(chances), [CLIMATOLOGY], draws=draws, seed=seed)
        scores.append(found.assign(metric=metric))
        differences.append(paired.assign(metric=metric))
    return pd.concat(scores, ignore_index=True), pd.concat(differences, ignore_index=True), chances


def _chances(
    head: LogisticHead, features: np.ndarray, labels: np.ndarray, blocks: Mapping[str, np.ndarray], most: int
) -> np.ndarray:
    """Return the test chances of a head fitted on train, its setting chosen on validation, (time, tile)."""
    train, val = (_flat(features, labels, blocks[name], most) for name in ("train", "val"))
    choice = choose(head, {"": train}, {"": val})
    test = _flat(features, labels, blocks["test"], labels.size)
    return head.predict(train, test, [choice.setting])[0][:, 1].reshape(-1, labels.shape[1])


def _flat(tokens: np.ndarray, labels: np.ndarray, block: np.ndarray, most: int) -> Samples:
    """Return the tiles of every k-th time of a block as samples."""
    steps = np.flatnonzero(block)
    steps = steps[:: max(1, -(-len(steps) * labels.shape[1] // most))]
    features = np.asarray(tokens[steps], dtype=np.float32).reshape(-1, tokens.shape[-1])
    return Samples(features, one_hot(labels[steps].ravel().astype(int), 2), np.repeat(steps, labels.shape[1]))


def _tile_climatology(labels: np.ndarray, month: np.ndarray) -> np.ndarray:
    """Return the chance of a storm by calendar month and tile, (12, tile).

    One sample at the mean chance of all is added to each: a tile without storms in training is unlikely to have
    one, not sure not to.
    """
    mean = np.clip(labels.mean(), 1e-6, 1 - 1e-6)
    counts, storms = np.zeros(12), np.zeros((12, labels.shape[1]))
    np.add.at(counts, month, 1.0)
    np.add.at(storms, month, labels.astype(float))
    return (storms + mean) / (counts[:, None] + 1)


def _statistics(chances: np.ndarray, truth: np.ndarray) -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    """Return AUC, average precision and Brier skill against the first row, as functions of sample weights."""
    error = (chances - truth) ** 2
    ranked = Ranking(chances, truth)
    return {
        "auc": ranked.auc,
        "average_precision": ranked.average_precision,
        "brier_skill": lambda w: 1 - (error @ w) / (error[0] @ w),
    }
