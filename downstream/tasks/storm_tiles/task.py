"""storm_tiles: does a tropical storm's centre lie in a tile, from the frozen token that stands for it?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from threadpoolctl import threadpool_limits

from ....ssl.common.errors import EarthSSLError
from ....ssl.common.files import refuse_filled
from ....ssl.model.encoder import EncoderConfig
from ....ssl.sources.planet.recorded import recorded_planet
from ....ssl.store.store import Store
from ...evaluation.encoders import PRETRAINED, Contender, contenders
from ...evaluation.summary import DIFFERENCES, SCORES, Summary
from ...features.patches import PatchGrid, encoder_features
from ...features.store_windows import StoreWindows
from ...storms.best_tracks import IBTRACS, SOURCE, best_tracks, tidy
from ...training.from_scratch import ScratchConfig
from .figures import map_figure, roc_figure
from .labels import BAND, TileLabels, store_tiles
from .network import scratch_rows
from .rows import (
    EXTREMES,
    PCA,
    TileRow,
    climatology_rows,
    component_features,
    extreme_features,
    logistic_row,
    raw_cells,
    tile_tables,
)

NAME = "storm_tiles"
PLANET = "planet"
CONVENTION = (
    "Target: whether the centre of a storm of {wind:g} kt or more lies in a tile (a patch of the encoder) at the last "
    "step of its window: diagnosis, no lead. A sample is a tile at a time, every {spacing} h. Brier skill: against the "
    "climatology of latitude band and season, frequencies of train + validation by row of tiles and DJF, MAM, JJA "
    "and SON. The other climatology is of each tile and month. All heads and the network from scratch are given the "
    "log odds of band and season in training. PCA: of the tile's cells over the window, alone or with its neighbours' "
    "components, as validation chose. Settings (layer, C, components, steps) and the chance from which a storm is "
    "called, the one of best balanced accuracy, chosen on validation; rows refitted on train + validation, read once "
    "on test. AUC: of the ROC curve. Average precision: of no skill, the base rate. Balanced accuracy: mean of the "
    "shares of tiles with and without a storm that were called right; of no skill, .5. Intervals: paired bootstrap "
    "over blocks of {block} test weeks, given these seeds; a row of several seeds scores the mean of its seeds' scores."
)


@dataclass(frozen=True)
class StormTilesConfig:
    """What to find and with what.

    Attributes:
        store: Folder of a training store with steps of a day at most that covers storms.
        out: Folder of the results; must be new or empty.
        checkpoints: Checkpoint folders (or run folders) of one recipe at several seeds; empty: untrained only.
        task: storm_tiles.
        tracks: planet (those of the store's own planet), ibtracs (real, 1980–2024; extra `cyclones`), or a CSV or
            Parquet file with the columns of storms/best_tracks.py.
        least_wind_kt: Records with less wind are no storm.
        spacing_hours: Hours between two sample times: neighbouring steps say nearly the same.
        layers: Blocks to choose from, counted from 0; null for all.
        costs: C of the logistic regressions to choose from.
        pca_components: Numbers of principal components of the tiles to choose from.
        untrained_seeds: Number of randomly initialised twins.
        encoder: Shape of the untrained encoders where there are no checkpoints.
        scratch: The same network trained on the labels.
        draws: Bootstrap draws.
        block_weeks: Weeks in a bootstrap block: storms live up to two.
    """

    store: str
    out: str
    checkpoints: list[str] = field(default_factory=list)
    task: str = NAME
    tracks: str = PLANET
    least_wind_kt: float = 34.0
    spacing_hours: int = 24
    layers: list[int] | None = None
    costs: list[float] = field(default_factory=lambda: [1e-2, 1.0, 1e2])
    pca_components: list[int] = field(default_factory=lambda: [5, 20, 40])
    untrained_seeds: int = 3
    encoder: EncoderConfig = field(default_factory=EncoderConfig)
    scratch: ScratchConfig = field(default_factory=lambda: ScratchConfig(batch_size=32))
    draws: int = 1000
    block_weeks: int = 2

    def __post_init__(self) -> None:
        if self.task != NAME:
            raise EarthSSLError(f"probe.task: expected {NAME}, got '{self.task}'")
        if self.spacing_hours < 1 or self.least_wind_kt < 0 or self.untrained_seeds < 0:
            raise EarthSSLError(
                f"{NAME}: expected spacing_hours ≥ 1, least_wind_kt ≥ 0 and untrained_seeds ≥ 0, got "
                f"{self.spacing_hours}, {self.least_wind_kt:g}, {self.untrained_seeds}"
            )
        if not self.costs or not min(self.costs) > 0 or min(self.pca_components, default=0) < 1 or self.layers == []:
            raise EarthSSLError(
                f"{NAME}: expected costs above 0, pca_components from 1 and layers (or null), at least one each, got "
                f"{self.costs}, {self.pca_components}, {self.layers}"
            )
        if self.draws < 100 or self.block_weeks < 1:
            raise EarthSSLError(
                f"{NAME}: expected draws ≥ 100 and block_weeks ≥ 1, got {self.draws} and {self.block_weeks}"
            )


def run(config: StormTilesConfig, command: str = "") -> Path:
    """Run the task and return the folder of its tables.

    Raises:
        EarthSSLError: If store, tracks and checkpoints do not fit together, a block holds no storm or nothing but
            storms, or `out` is not empty.
    """
    refuse_filled(Path(config.out), "the task's results")
    with threadpool_limits(1, "blas"):
        return summarise(config).write(config.out, command)


def summarise(config: StormTilesConfig) -> Summary:
    """Return the result of the task."""
    begun = time.perf_counter()
    store = Store(config.store)
    tracks = (
        tidy(recorded_planet(store.manifest["attributes"]).tracks(), "planet")
        if config.tracks == PLANET
        else best_tracks(config.tracks)
    )
    encoders = contenders(store, config.checkpoints, config.untrained_seeds, config.encoder)
    shape = encoders[0].encoder.config
    labels = TileLabels.from_store(store, tracks, shape, config.spacing_hours, config.least_wind_kt)
    windows = StoreWindows(store, shape.window)
    rows = climatology_rows(labels) + _raw_rows(config, store, windows, shape, labels)
    rows += [_encoder_row(config, store, windows, one, labels) for one in encoders]
    rows += scratch_rows(config.scratch, shape, windows, labels)
    names = list(dict.fromkeys(one.row for one in rows))
    references = [name for name in names if name != "base rate" and not name.startswith(PRETRAINED)]
    scores, differences = tile_tables(rows, labels, references, draws=config.draws, block_weeks=config.block_weeks)
    target = f"storm ≥ {config.least_wind_kt:g} kt in tile"
    test = labels.inside("test")
    # The first seed of each row: a mean over seeds would be another, better forecast.
    chances = {name: next(one.chances for one in rows if one.row == name) for name in names}
    mapped = {name: found for name, found in chances.items() if name == BAND or name.startswith(PRETRAINED)}
    synthetic = "planet" in store.manifest["attributes"]
    return Summary(
        task=NAME,
        title=_title(config, store, shape, synthetic),
        convention=CONVENTION.format(wind=config.least_wind_kt, spacing=config.spacing_hours, block=config.block_weeks),
        scores=scores.assign(target=target)[list(SCORES)],
        differences=differences.assign(target=target)[list(DIFFERENCES)],
        record={
            "source": store.manifest["source"],
            "tracks": SOURCE if config.tracks == IBTRACS else config.tracks,
            "synthetic": synthetic,
            "split": store.splits.to_json(),
            "split_proof": store.splits.proof(store.times.astype("datetime64[ns]")),
            "store_fingerprint": store.fingerprint,
            "samples": labels.counts(),
            "rows": [{"row": one.row, "seed": one.seed, "threshold": one.threshold, **one.chosen} for one in rows],
            "encoders": [{"kind": one.kind, **one.source} for one in encoders],
            "seconds": time.perf_counter() - begun,
            "config": asdict(config),
        },
        figures={
            "roc": roc_figure(chances, labels.storms[test], f"{target}, test block"),
            "mean_chance_by_tile": map_figure(
                mapped, labels.storms[test], store_tiles(store, shape), store.grid, shape.patch[1:]
            ),
        },
        tables={"samples": _sample_table(labels.counts())},
        notes=_notes(config, labels),
    )  # fmt: skip


def _raw_rows(
    config: StormTilesConfig, store: Store, windows: StoreWindows, shape: EncoderConfig, labels: TileLabels
) -> list[TileRow]:
    """Return the rows on the raw fields of a tile: extremes, and principal components."""
    grid, fields = PatchGrid(store, shape.patch[1:]), windows.fields.numpy()
    extremes = {"of each variable": extreme_features(fields, grid, labels.steps)}
    cells = raw_cells(fields, grid, labels.steps, shape.window)
    pcs = component_features(cells, grid, labels, store_tiles(store, shape), config.pca_components)
    return [
        logistic_row(labels, extremes, config.costs, EXTREMES, None),
        logistic_row(labels, pcs, config.costs, PCA, None),
    ]


def _encoder_row(
    config: StormTilesConfig, store: Store, windows: StoreWindows, one: Contender, labels: TileLabels
) -> TileRow:
    """Return the row of a frozen encoder's tokens of the last step, the layer chosen on validation."""
    layers = list(range(one.encoder.depth)) if config.layers is None else sorted(set(config.layers))
    found = encoder_features(
        one.encoder, store, windows.fields.numpy(), labels.steps, layers, ["last"], f"{one.kind} {one.seed}"
    )
    tokens = {f"layer {layer + 1}": values.at(labels.steps) for (layer, _), values in found.items()}
    return logistic_row(labels, tokens, config.costs, f"{one.kind} [logistic]", one.seed)


def _title(config: StormTilesConfig, store: Store, shape: EncoderConfig, synthetic: bool) -> str:
    source = "the synthetic planet" if synthetic else store.manifest["source"]
    first, last = (str(instant)[:10] for instant in store.splits.test)
    rows, columns = shape.patch[1:]
    return f"Storm present in tile ({rows}×{columns} cells), {source}, test {first} … {last}"


def _sample_table(counts: Mapping[str, Mapping[str, int]]) -> pd.DataFrame:
    return pd.DataFrame([{"block": block, **own} for block, own in counts.items()])


def _notes(config: StormTilesConfig, labels: TileLabels) -> list[str]:
    notes: list[Any] = [
        f"{labels.unknown} times lie outside the tracks' period: left out." if labels.unknown else "",
        f"{labels.unseen} storms lie in tiles that hold no value, and so have no token: left out."
        if labels.unseen else "",
        "" if config.scratch.seeds else "No network is trained from scratch: scratch.seeds is 0.",
    ]  # fmt: skip
    return [note for note in notes if note]
