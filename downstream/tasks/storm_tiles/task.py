"""storm_tiles: does a tropical storm's centre lie in a tile, from the frozen token that stands for it?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from ....ssl.sources.planet.recorded import recorded_planet
from ....ssl.store.store import Store
from ...evaluation.config import TaskConfig
from ...evaluation.encoders import Contender
from ...evaluation.task import Decoders, Extras, Features, Task
from ...evaluation.window_labels import WindowLabels
from ...features.patches import PatchGrid, encoder_features, raw_cells, with_neighbours
from ...features.store_windows import StoreWindows
from ...results.figures import line_figure, map_figure
from ...results.maps import MapFigure
from ...results.row import Role, Row, names_of
from ...results.target import Target
from ...storms.best_tracks import IBTRACS, SOURCE, best_tracks, tidy
from ...training.from_scratch import ScratchConfig
from .labels import BAND, TileLabels
from .rows import EXTREMES, PCA, climatology_rows, component_features, extreme_features, logistic_row, scratch_rows

PLANET = "planet"
MOST_VALUES = 900  # of a tile and its neighbours over the window; more are averaged over blocks of cells
CONVENTION = (
    "Target: whether the centre of a storm of {wind:g} kt or more lies in a tile (a patch of the encoder) at the last "
    "step of its window: diagnosis, no lead. A sample is a tile at a time, every {spacing} h. Brier skill: against the "
    "climatology of latitude band and season, frequencies of train + validation by row of tiles and DJF, MAM, JJA "
    "and SON. The other climatology is of each tile and month. All heads and the network from scratch are given the "
    "log odds of band and season in training. Raw window, and random features and principal components of it: of the "
    "cells of the tile and its eight neighbours over the window, no other tile, averaged over square blocks where they "
    f"are more than {MOST_VALUES} values. PCA of the tile: alone or with its neighbours' components, as "
    "validation chose. Settings (layer, C, components, steps) and the chance from which a storm is "
    "called, the one of best balanced accuracy, chosen on validation; rows refitted on train + validation, read once "
    "on test. AUC: of the ROC curve. Average precision: of no skill, the base rate. Balanced accuracy: mean of the "
    "shares of tiles with and without a storm that were called right; of no skill, .5. Intervals: paired bootstrap "
    "over blocks of {block} test weeks, given these seeds; a row of several seeds scores the mean of its seeds' "
    "scores. Curve over labels: fitted on whole training weeks drawn at random, whose frequencies the log odds are "
    "of; settings chosen on the whole validation block, no refit."
)


@dataclass(frozen=True)
class StormTilesConfig(TaskConfig):
    """What to find and with what; store: with steps of a day at most. See `TaskConfig` for the rest.

    Attributes:
        tracks: planet (those of the store's own planet), ibtracs (real, 1980–2024; extra `cyclones`), or a CSV or
            Parquet file with the columns of storms/best_tracks.py.
        least_wind_kt: Records with less wind are no storm.
        spacing_hours: Hours between two sample times: neighbouring steps say nearly the same.
        layers: Blocks to choose from, counted from 0, negative from the end; null for all.
        costs: C of the logistic regressions to choose from.
        pca_components: Numbers of principal components of the tiles to choose from.
        block: Weeks in a bootstrap block: storms live up to two.
    """

    task: str = "storm_tiles"
    tracks: str = PLANET
    least_wind_kt: float = 34.0
    spacing_hours: int = 24
    costs: list[float] = field(default_factory=lambda: [1e-2, 1.0, 1e2])
    pca_components: list[int] = field(default_factory=lambda: [5, 20, 40])
    scratch: ScratchConfig = field(default_factory=lambda: ScratchConfig(batch_size=32))
    draws: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        self.check({"spacing_hours": "≥ 1", "least_wind_kt": "≥ 0", "costs": "> 0"})


class StormTiles(Task[StormTilesConfig]):
    """Whether a storm's centre lies in each tile, one target."""

    name = "storm_tiles"
    what = "Storm present in tile"
    convention = CONVENTION
    Config = StormTilesConfig
    unit = "week"
    head = "logistic"

    def __init__(self, config: StormTilesConfig, store: Store, decoders: Decoders | None = None) -> None:
        super().__init__(config, store, decoders)
        if config.tracks == PLANET:
            tracks = tidy(recorded_planet(store.manifest["attributes"]).tracks(), "planet")
        else:
            tracks = best_tracks(config.tracks)
        shape = self.shape
        self.labels = TileLabels.from_store(store, tracks, shape, config.spacing_hours, config.least_wind_kt)
        self.grid, self.windows = PatchGrid(store, shape.patch[1:]), StoreWindows(store, shape.window)

    def layers(self, encoder: Contender) -> list[int]:
        return list(range(encoder.encoder.depth)) if self.config.layers is None else super().layers(encoder)

    def targets(self) -> Sequence[Target]:
        return [self.labels.target(self.config.block)]

    def raw(self, window: int) -> np.ndarray:
        cells = raw_cells(self.windows.fields.numpy(), self.grid, self.labels.steps, window, MOST_VALUES // 9)
        columns = -(-self.store.grid.shape[1] // self.grid.patch[1])
        return with_neighbours(cells, self.grid.tiles, columns, self.store.grid.periodic)

    def training_samples(self) -> np.ndarray:
        return self.labels.inside("train")

    def label_units(self) -> np.ndarray:
        return np.unique(self.labels.week[self.labels.inside("train")])

    def fitted(
        self, name: str, role: Role, features: Features, seed: Any = None, units: np.ndarray | None = None
    ) -> Row:
        row = logistic_row(self.labels, features, self.config.costs, name, role, seed, units)
        # Features of all tiles at all times are large: only the curve over labels asks for them again.
        return row if self.curved(row) else replace(row, features={})

    def embedded(self, encoder: Contender, layers: Sequence[int]) -> Mapping[str, Features]:
        steps, words = self.labels.steps, f"{encoder.kind} {encoder.seed}"
        found = encoder_features(
            encoder.encoder, self.store, self.windows.fields.numpy(), steps, layers, ["last"], words
        )
        return {self.head: {f"layer {layer + 1}": one.at(steps) for (layer, _), one in found.items()}}

    def baselines(self, window: int) -> Iterable[Row]:
        yield from climatology_rows(self.labels)
        fields, steps = self.windows.fields.numpy(), self.labels.steps
        extremes = {"of each variable": extreme_features(fields, self.grid, steps)}
        yield self.fitted(EXTREMES, Role.BASELINE, extremes)
        cells = raw_cells(fields, self.grid, steps, window)
        pcs = component_features(cells, self.grid, self.labels, self.grid.tiles, self.config.pca_components)
        yield self.fitted(PCA, Role.BASELINE, pcs)

    def classified(self) -> Sequence[WindowLabels]:
        return [self.labels.flat()]

    def known_features(self, window: int) -> Mapping[str, Features]:
        fields = self.windows.fields.numpy()
        name = EXTREMES.removesuffix(" [logistic]")
        return {name: {"of each variable": extreme_features(fields, self.grid, self.labels.steps)}}

    def trained(
        self, encoders: Sequence[Contender], seeds: int | None = None, units: np.ndarray | None = None
    ) -> Iterable[Row]:
        count = self.config.scratch.seeds if seeds is None else seeds
        return scratch_rows(self.config.scratch, self.shape, self.windows, self.labels, count, units)

    def samples(self) -> Mapping[str, Any]:
        return self.labels.counts()

    def title(self) -> str:
        rows, columns = self.grid.patch
        return super().title().replace(self.what, f"{self.what} ({rows}×{columns} cells)", 1)

    def convention_text(self) -> str:
        config = self.config
        return self.convention.format(wind=config.least_wind_kt, spacing=config.spacing_hours, block=config.block)

    def extras(self, rows: Sequence[Row], scores: pd.DataFrame, differences: pd.DataFrame) -> Extras:
        labels, name = self.labels, self.labels.name
        storms = labels.storms[labels.inside("test")]
        # The first seed of each row: a mean over seeds would be another, better forecast.
        first = {own: next(row for row in rows if row.name == own) for own in names_of(rows)}
        chances = {own: row.forecast[name] for own, row in first.items()}
        mapped = {own: chances[own] for own, row in first.items() if own == BAND or row.role is Role.PRETRAINED}
        notes = [
            f"{labels.unknown} times lie outside the tracks' period: left out." if labels.unknown else "",
            f"{labels.unseen} storms lie in tiles that hold no value, and so have no token: left out."
            if labels.unseen else "",
        ]  # fmt: skip
        return Extras(
            figures={
                "roc": roc_figure(chances, storms, f"{name}, test block"),
                "mean_chance_by_tile": tile_figure(mapped, storms, self.grid),
            },
            tables={"samples": pd.DataFrame([{"block": block, **own} for block, own in labels.counts().items()])},
            notes=[note for note in notes if note],
            record={"tracks": SOURCE if self.config.tracks == IBTRACS else self.config.tracks},
        )


def roc_figure(chances: Mapping[str, np.ndarray], storms: np.ndarray, title: str) -> Figure:
    """Return the ROC curve of each row.

    Args:
        chances: Of each row, in any shape.
        storms: What was, in the same shape.
        title: Of the picture.
    """
    lines = {name: roc_curve(storms.ravel(), found.ravel())[:2] for name, found in chances.items()}
    called = "share of the tiles with{} a storm that are called".format
    drawn = line_figure({title: lines}, called("out"), called(""), marker="")
    drawn.axes[0].axline((0, 0), slope=1, color="0.6", lw=0.8)
    return drawn


def tile_figure(chances: Mapping[str, np.ndarray], storms: np.ndarray, grid: PatchGrid) -> MapFigure:
    """Return the observed frequency of storms in each tile beside the mean chance that each row gave it.

    Args:
        chances: Of each row, (time, place).
        storms: bool, (time, place).
        grid: How the globe is cut into tiles.
    """
    means = {name: found.mean(axis=0) for name, found in {"observed": storms, **chances}.items()}
    cells = grid.patch[0] * grid.patch[1]
    maps = {name: grid.join(np.repeat(values[None, :, None], cells, 2), 1)[0, 0] for name, values in means.items()}
    largest = max(float(values.max()) for values in means.values())
    return map_figure(maps, grid.store.grid, largest, "share of the test times", "", "share", shares=True)
