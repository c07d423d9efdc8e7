"""TileLabels: in which tiles the centres of storms lie, which times are samples, and what their place gives away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

import numpy as np
import pandas as pd

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.grid import LatLonGrid
from ....ssl.fields.splits import PARTS, window_starts
from ....ssl.model.encoder import EncoderConfig
from ....ssl.model.tokens import padded
from ....ssl.store.store import Store
from ...evaluation.window_labels import WindowLabels
from ...features.patches import PatchGrid
from ...heads.base import Samples
from ...metrics.classes import one_hot
from ...metrics.paired_bootstrap import Statistic
from ...results.event_metrics import call_metric, chances_of, rank_metrics
from ...results.row import Row
from ...results.target import Metric, Target, event_chances

LONGEST_STEP = np.timedelta64(1, "D")
BAND = "climatology of latitude band and season"
BSS, AUC, AP, BALANCED = "brier_skill", "auc", "average_precision", "balanced_accuracy"
CALLS = "pss"  # what thresholds of calls are chosen by: balanced accuracy is (PSS + 1) / 2


def storm_labels(tracks: pd.DataFrame, times: np.ndarray, grid: LatLonGrid, patch: tuple[int, int]) -> np.ndarray:
    """Return whether a storm's centre lies in each tile at each time, bool (time, tile).

    Tiles are counted as `Patches.cell` counts them: row × columns + column of the padded grid. A centre belongs to
    the cell whose bounds hold it (the northern and western ones are its own); outside the grid it is left out.

    Args:
        tracks: Tidy (see `best_tracks`); storm, time, lat and lon are read.
        times: Last step of each window, datetime64, (time,).
        grid: Cells.
        patch: Rows and columns of a tile.

    Raises:
        EarthSSLError: If no record of the tracks is at one of the times.
    """
    lat, lon = (tracks[name].to_numpy(dtype=float) for name in ("lat", "lon"))
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


@dataclass(frozen=True, eq=False)
class TileLabels:
    """Whether a storm's centre lies in each tile at the last step of some windows, and the block of each.

    Attributes:
        steps: Index in the store of the last step of each sample time, ascending, (n,).
        times: Those steps' times, datetime64[s], (n,).
        part: Block of each, "train", "val" or "test", (n,).
        storms: bool, (n, place); places are the tiles that have a token, in the tokens' order.
        row: Which row of tiles each place lies in, (place,).
        unknown: Windows left out because the tracks do not reach over their times.
        unseen: Storm records at sample times in tiles without a token.
        name: Of the target.
    """

    steps: np.ndarray
    times: np.ndarray
    part: np.ndarray
    storms: np.ndarray
    row: np.ndarray
    unknown: int = 0
    unseen: int = 0
    name: str = "storm in tile"

    @classmethod
    def from_store(
        cls, store: Store, tracks: pd.DataFrame, shape: EncoderConfig, spacing_hours: int, least_wind_kt: float
    ) -> TileLabels:
        """Return the labels of a store's windows.

        Args:
            store: With steps of a day at most.
            tracks: See `best_tracks.COLUMNS`.
            shape: Window and patch of the encoders.
            spacing_hours: A time is a sample where its hours since 1970 are a multiple of this.
            least_wind_kt: Records with less wind (or none known) are no storm.

        Raises:
            EarthSSLError: If the store has no such times, storms lie in two blocks, or a block has one class only.
        """
        times = store.times.astype("datetime64[ns]")
        step = np.median(np.diff(times)) if len(times) > 1 else LONGEST_STEP
        if step > LONGEST_STEP:
            raise EarthSSLError(
                f"storm_tiles: expected a store with steps of 24 h at most, got {step / LONGEST_STEP:.0f} days in "
                f"{store.path}: no storm is seen in such means; prepare a 6-hourly one"
            )
        tracks = tracks[tracks["wind_kt"] >= least_wind_kt]
        if not len(tracks):
            raise EarthSSLError(
                f"storm_tiles: expected storms of {least_wind_kt:g} kt or more in the tracks, got none; lower "
                "least_wind_kt"
            )
        steps, part = _samples(store, shape.window, spacing_hours)
        first, last = tracks["time"].min().to_datetime64(), tracks["time"].max().to_datetime64()
        known = (times[steps] >= first) & (times[steps] <= last)
        everywhere = storm_labels(tracks, times[steps], store.grid, shape.patch[1:])
        tiles = PatchGrid(store, shape.patch[1:]).tiles
        columns = padded(store.grid.shape[1], shape.patch[2]) // shape.patch[2]
        steps, part, everywhere = steps[known], part[known], everywhere[known]
        storms = everywhere[:, tiles]
        _check_whole(tracks, store)
        for name in PARTS:
            own = storms[part == name]
            if not own.any() or own.all():
                raise EarthSSLError(
                    f"storm_tiles: expected tiles with and without storms of {least_wind_kt:g} kt or more in the "
                    f"{name} block, got {int(own.sum())} of {own.size} with one; lengthen the block, lower "
                    "least_wind_kt, or choose tracks and tiles that suit"
                )
        unknown, unseen = int((~known).sum()), int(everywhere.sum() - storms.sum())
        name = f"storm ≥ {least_wind_kt:g} kt in tile"
        return cls(steps, store.times[steps], part, storms, tiles // columns, unknown, unseen, name)

    @cached_property
    def season(self) -> np.ndarray:
        """Season of each time, 0 = December to February, (n,)."""
        return (self.times.astype("datetime64[M]").astype(int) % 12 + 1) % 12 // 3

    @cached_property
    def month(self) -> np.ndarray:
        """Calendar month of each time, 0 = January, (n,)."""
        return self.times.astype("datetime64[M]").astype(int) % 12

    @cached_property
    def week(self) -> np.ndarray:
        """Week of each time since 1970, (n,)."""
        return self.times.astype("datetime64[W]").astype(int)

    def inside(self, *parts: str) -> np.ndarray:
        """Return which times lie in some blocks, (n,)."""
        return np.isin(self.part, parts)

    def training(self, weeks: np.ndarray | None = None) -> np.ndarray:
        """Return which times lie in the training block, or in some weeks of it, (n,)."""
        own = self.inside("train")
        return own if weeks is None else own & np.isin(self.week, weeks)

    def climatologies(self, fitted: np.ndarray) -> dict[str, np.ndarray]:
        """Return chances at all times from the frequencies at the fitted ones, each (n, place).

        base rate: one number. band and season: by row of tiles and season. tile and month: by tile and calendar
        month. One sample at the base rate is added to each frequency: what never happened is unlikely, not impossible.
        """
        n, places = self.storms.shape
        band = self.season[:, None] * (self.row.max() + 1) + self.row[None, :]
        own = self.month[:, None] * places + np.arange(places)[None, :]
        groups = {"base rate": np.zeros((n, places), int), BAND: band, "climatology of tile and month": own}
        return {name: _smoothed(self.storms, group, fitted) for name, group in groups.items()}

    def log_odds(self, fitted: np.ndarray) -> np.ndarray:
        """Return the log odds of the climatology of latitude band and season of the fitted times, (n, place)."""
        chance = self.climatologies(fitted)[BAND]
        return np.log(chance / (1 - chance))

    def samples(self, features: np.ndarray, chosen: np.ndarray) -> Samples:
        """Return the tiles of some times as samples, time by time.

        Args:
            features: Shape (n, place, feature).
            chosen: Which times, bool (n,).
        """
        return Samples(
            np.asarray(features[chosen], np.float32).reshape(-1, features.shape[-1]),
            one_hot(self.storms[chosen].ravel().astype(int), 2),
            np.repeat(self.steps[chosen], self.storms.shape[1]),
        )

    def flat(self) -> WindowLabels:
        """Return the storms as classes of samples, each a tile at a time, time by time."""
        places = self.storms.shape[1]
        parts = np.repeat(self.part, places)
        rows = {name: np.flatnonzero(parts == name) for name in PARTS}
        chance = self.climatologies(self.inside("train", "val"))[BAND].ravel()[rows["test"]]
        return WindowLabels(
            self.name, one_hot(self.storms.ravel().astype(int), 2), rows, np.repeat(self.week, places),
            np.stack([1 - chance, chance], axis=1), ("none", "storm"), np.repeat(self.steps, places),
        )  # fmt: skip

    def counts(self) -> Mapping[str, Mapping[str, int]]:
        """Return how many times, tiles and tiles with a storm each block has."""
        own = {name: self.storms[self.part == name] for name in PARTS}
        return {
            name: {"times": len(one), "samples": one.size, "with a storm": int(one.sum())} for name, one in own.items()
        }

    def target(self, block: int) -> Target:
        """Return what is to be told of the tiles of the test block; a forecast of it is of shape (time, place).

        Args:
            block: Neighbouring weeks drawn together.
        """
        test = self.inside("test")
        event = self.storms[test].ravel().astype(int)
        climatology = self.climatologies(self.inside("train", "val"))[BAND][test].ravel()
        reference = (climatology - event) ** 2

        def skill(rows: Sequence[Row]) -> Statistic:
            error = (chances_of(rows, self.name) - event) ** 2
            return lambda w: 1 - (error @ w) / (reference @ w)

        balanced = call_metric(self.name, event, BALANCED, CALLS, lambda pss: (1 + pss) / 2)
        return Target(
            self.name, np.repeat(self.week[test], self.storms.shape[1]),
            [Metric(BSS, skill), *rank_metrics(self.name, event, AUC, AP), balanced], block,
            errors=lambda row: (row.forecast[self.name].ravel() - event) ** 2,
            reference_errors=reference,
            chances=event_chances(self.name, event),
        )  # fmt: skip


def _samples(store: Store, window: int, spacing_hours: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the last steps of the windows that are samples, ascending, and the block of each."""
    times = store.times.astype("datetime64[ns]")
    hours = times.astype("datetime64[h]").astype(int)
    part = np.full(len(times), "", dtype="<U5")
    for name in PARTS:
        ends = window_starts(times, store.splits, name, window) + window - 1
        ends = ends[hours[ends] % spacing_hours == 0]
        if not len(ends):
            raise EarthSSLError(
                f"storm_tiles: expected times of the {name} block at multiples of {spacing_hours} h, got none among "
                f"{store.times[0]} … {store.times[-1]}; choose another spacing_hours"
            )
        part[ends] = name
    steps = np.flatnonzero(part != "")
    return steps, part[steps]


def _check_whole(tracks: pd.DataFrame, store: Store) -> None:
    """Raise an EarthSSLError if a storm has records in two blocks: its twin would be known from training."""
    when = tracks["time"].to_numpy().astype("datetime64[ns]")
    inside = {name: set(tracks["storm"][store.splits.inside(when, name)]) for name in PARTS}
    for one, other in combinations(PARTS, 2):
        both = inside[one] & inside[other]
        if both:
            raise EarthSSLError(
                f"storm_tiles: expected every storm in one block, got {len(both)} in both {one} and {other} (such as "
                f"{min(both)}); put the blocks as far apart as the longest storm lives (three weeks)"
            )


def _smoothed(storms: np.ndarray, group: np.ndarray, fitted: np.ndarray) -> np.ndarray:
    """Return the frequency of storms in each one's group among the fitted times, with one sample at the base rate."""
    events, groups = storms[fitted].ravel().astype(float), group[fitted].ravel()
    count = int(group.max()) + 1
    rate = float(np.clip(events.mean(), 1e-6, 1 - 1e-6))
    return ((np.bincount(groups, events, count) + rate) / (np.bincount(groups, minlength=count) + 1))[group]
