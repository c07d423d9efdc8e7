"""Rapid intensification of tropical cyclones: will the wind rise by so much within 24 hours?

Definition, sample and split follow Kaplan & DeMaria (2003, doi 10.1175/1520-0434(2003)018<1093:LCORIT>2.0.CO;2): the
exact change of the wind over 24 h, over water. Best-track winds are known only after the season: forecasts made of
them look better than they could have been.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from threadpoolctl import threadpool_limits

from ..ssl.checkpoint import read
from ..ssl.errors import EarthSSLError
from ..ssl.files import refuse_filled
from ..ssl.randomness import key
from ..ssl.sources.planet import Planet, PlanetConfig
from ..ssl.store import Store
from . import best_tracks, rapid_rows
from .crops import CropConfig, StormCrops, crop_features, crop_pca
from .rapid_rows import CLIMATOLOGY, TRACK_ROW, Forecasts, Problem, matrix
from .rapid_scores import reliability_figure, scored, skill_figure
from .storm_predictors import BASE, OCEAN, TRACK, add_ocean, predictors
from .summary import Summary

KNOWN = "best reachable (true state known)"
CONVENTION = (
    "Event: wind 24 h later minus wind now at least the threshold (kt), over water and tropical throughout. Fitted on "
    "the training seasons, settings and warning thresholds chosen on validation, read once on the test seasons; storms "
    "are never split. BSS: Brier skill against the basins' frequencies in the test sample (the hard reference); "
    "BSS train: against those of the training sample. PSS and HSS: Peirce and Heidke scores of warnings, each with its "
    "own threshold. Intervals: paired bootstrap over test storms. Winds and places are best tracks, so all rows are "
    "optimistic beside operational ones."
)


@dataclass(frozen=True)
class RapidIntensificationConfig:
    """What to forecast and with what.

    Attributes:
        out: Folder of the results; must be new or empty.
        task: rapid_intensification.
        tracks: "ibtracs" (extra `cyclones`), "planet" (those of the store's own planet), or a CSV file of yours.
        store: Folder of a 6-hourly store that covers the storms, for the encoder's rows; null for tracks alone.
        checkpoints: Checkpoint folders (or run folders) of one recipe at several seeds.
        thresholds_kt: Changes over 24 h that count as rapid; the first is the one that pictures show.
        train, val, test: First and last season of each block; null takes the store's blocks of time.
        sst: NetCDF file of monthly SST, for climatological SST and potential intensity; null for none.
        sst_years: First and last year of each SST climatology to be tried; a row is named after it.
        crop: Of the storm-centred crops.
        pooling: Of their tokens: mean, last or nearby.
        layers: Blocks to choose among on validation, counted from 0; null for all.
        components: Principal components of the crops, for the row that stands beside the encoder.
        draws: Bootstrap draws.
    """

    out: str
    task: str = "rapid_intensification"
    tracks: str = "ibtracs"
    store: str | None = None
    checkpoints: list[str] = field(default_factory=list)
    thresholds_kt: list[int] = field(default_factory=lambda: [30, 25, 35, 40])
    train: tuple[int, int] | None = (1980, 2009)
    val: tuple[int, int] | None = (2010, 2014)
    test: tuple[int, int] | None = (2015, 2024)
    sst: str | None = None
    sst_years: list[tuple[int, int]] = field(default_factory=list)
    crop: CropConfig = field(default_factory=CropConfig)
    pooling: str = "mean"
    layers: list[int] | None = None
    components: int = 30
    draws: int = 1000

    def __post_init__(self) -> None:
        if not self.thresholds_kt or min(self.thresholds_kt) < 1:
            raise EarthSSLError(f"rapid_intensification.thresholds_kt: expected some ≥ 1, got {self.thresholds_kt}")
        if self.checkpoints and not self.store:
            raise EarthSSLError("rapid_intensification: checkpoints need a store that covers the storms; give store")
        if self.tracks == "planet" and not self.store:
            raise EarthSSLError("rapid_intensification.tracks: planet needs the store of a planet with storms")
        given = [block for block in (self.train, self.val, self.test) if block is not None]
        if given and (len(given) < 3 or not given[0][1] < given[1][0] <= given[1][1] < given[2][0] <= given[2][1]):
            raise EarthSSLError(
                "rapid_intensification: expected seasons of train before val before test, or null for all three, got "
                f"{self.train}, {self.val}, {self.test}"
            )
        if not given and not self.store:
            raise EarthSSLError("rapid_intensification: expected seasons for train, val and test, or a store's blocks")
        if bool(self.sst) != bool(self.sst_years):
            raise EarthSSLError("rapid_intensification: expected sst and sst_years together, got one of them")
        if self.draws < 100:
            raise EarthSSLError(f"rapid_intensification.draws: expected at least 100, got {self.draws}")


def run(config: RapidIntensificationConfig, command: str = "") -> Path:
    """Make and score every row, and return the folder of the tables.

    Raises:
        EarthSSLError: If tracks, store and blocks do not fit together, a block holds one class only, or `out` is
            not empty.
    """
    refuse_filled(Path(config.out), "the task's results")
    with threadpool_limits(1, "blas"):
        return summarise(config).write(config.out, command)


def summarise(config: RapidIntensificationConfig) -> Summary:
    """Return the tables of the task."""
    begun = time.perf_counter()
    store = Store(config.store) if config.store else None
    planet = _planet(store) if config.tracks == "planet" else None
    tracks = _tracks(config, planet)
    found = best_tracks.samples(tracks)
    table = predictors(tracks, found)
    blocks = _blocks(config, table, store)
    notes = []
    inside = blocks["train"] | blocks["val"] | blocks["test"]
    # South Atlantic storms are too few to have a frequency of their own.
    inside &= (table["basin"] != "SA").to_numpy() | blocks["test"]
    crops = None
    if store is not None:
        window = read(_folder(config.checkpoints[0]))[1].encoder.window if config.checkpoints else 2
        at = np.flatnonzero(inside)
        crops = StormCrops(store, table.iloc[at], window, config.crop)
        if crops.dropped:
            said = ", ".join(f"{count} {reason}" for reason, count in crops.dropped.items())
            notes.append(f"Samples without fields around them, left out of every row: {said}.")
        inside = np.isin(np.arange(len(table)), at[crops.kept])
    table = table[inside].reset_index(drop=True)
    blocks = {name: own[inside] for name, own in blocks.items()}
    for first, last in config.sst_years:
        add_ocean(table, str(config.sst), first, last)
        if config.test and last >= config.test[0]:
            notes.append(f"The SST climatology of {first}–{last} overlaps the test seasons.")
    features = _features(config, store, table, blocks["train"]) if store is not None else []
    scores, differences, extra = [], [], []
    figures: dict[str, Figure] = {}
    for number, threshold in enumerate(config.thresholds_kt):
        problem = Problem(table, (table["dv24_kt"] >= threshold).astype(int).to_numpy(), **blocks)
        rows = _rows(config, problem, features, planet, threshold)
        found_scores, found_differences, parts = scored(rows, problem, f"{threshold} kt", config.draws)
        scores.append(found_scores)
        differences.append(found_differences)
        extra.append(parts)
        if number == 0:
            figures = {
                "reliability": reliability_figure(rows, problem, threshold),
                "brier_skill": skill_figure(found_scores, threshold),
            }
    tables = {name: pd.concat([part[name] for part in extra], ignore_index=True) for name in extra[0]}
    tables["base_rates"] = best_tracks.base_rates(best_tracks.samples(tracks))
    what = {"ibtracs": "real best tracks (IBTrACS, USA agencies)", "planet": "storms of the synthetic planet"}
    fields = "no fields" if store is None else f"fields of {store.manifest['source']}"
    return Summary(
        task=config.task,
        title=f"Rapid intensification: {what.get(config.tracks, config.tracks)}, {fields}",
        convention=CONVENTION,
        scores=pd.concat(scores, ignore_index=True),
        differences=pd.concat(differences, ignore_index=True),
        record={
            "synthetic": planet is not None,
            "source": config.tracks,
            "samples": {name: int(own.sum()) for name, own in blocks.items()},
            "test_storms": int(table.loc[blocks["test"], "storm"].nunique()),
            "events_percent": {
                f"{t} kt": {n: 100 * float((table.loc[own, "dv24_kt"] >= t).mean()) for n, own in blocks.items()}
                for t in config.thresholds_kt
            },
            "checkpoints": config.checkpoints,
            "seconds": time.perf_counter() - begun,
            "config": asdict(config),
        },
        figures=figures,
        tables=tables,
        notes=notes,
    )


def _planet(store: Store | None) -> Planet:
    options = store.manifest["attributes"].get("planet") if store is not None else None
    known = json.loads(options) if options else {}
    if not known.get("storms"):
        raise EarthSSLError(
            f"rapid_intensification.tracks: expected a store of a planet with storms (options: storms: 80, step: "
            f"6-hourly), {store.path if store else 'got none'} has none; prepare one"
        )
    return Planet(PlanetConfig(**{**known, "shape": tuple(known["shape"])}))


def _tracks(config: RapidIntensificationConfig, planet: Planet | None) -> pd.DataFrame:
    if planet is not None:
        return best_tracks.tidy(planet.tracks())
    return best_tracks.ibtracs() if config.tracks == "ibtracs" else best_tracks.read_tracks(config.tracks)


def _blocks(config: RapidIntensificationConfig, table: pd.DataFrame, store: Store | None) -> dict[str, np.ndarray]:
    """Return which samples belong to each block; a storm belongs whole to one, or to none.

    Raises:
        EarthSSLError: If a block holds no sample.
    """
    made = {}
    for name in ("train", "val", "test"):
        seasons = getattr(config, name)
        if seasons is not None:
            made[name] = table["season"].between(*seasons).to_numpy()
        else:
            assert store is not None
            inside = store.splits.inside(table["time"].to_numpy().astype("datetime64[ns]"), name)
            whole = pd.Series(inside).groupby(table["storm"].to_numpy()).transform("all").to_numpy()
            made[name] = inside & whole
        if not made[name].any():
            raise EarthSSLError(
                f"rapid_intensification: expected samples in the {name} block, got none of {len(table)} between "
                f"{table['time'].min():%Y-%m-%d} and {table['time'].max():%Y-%m-%d}; move the block"
            )
    return made


def _folder(path: str) -> Path:
    return Path(path) / "checkpoint" if (Path(path) / "checkpoint").is_dir() else Path(path)


def _features(
    config: RapidIntensificationConfig, store: Store | None, table: pd.DataFrame, train: np.ndarray
) -> list[tuple[str, int | None, dict[str, np.ndarray]]]:
    """Return (name, seed, features by layer) of the encoders, their untrained twins, and the crops' PCs."""
    assert store is not None
    made: list[tuple[str, int | None, dict[str, np.ndarray]]] = []
    loaded = [read(_folder(path)) for path in config.checkpoints]
    window = loaded[0][1].encoder.window if loaded else 2
    crops = StormCrops(store, table, window, config.crop)
    made.append(("PCA of the crops", None, {"": crop_pca(crops, train, config.components)}))
    for encoder, record in loaded:
        layers = list(range(encoder.depth)) if config.layers is None else config.layers
        torch.manual_seed(key(record.seed, "init") & (2**63 - 1))
        twin = record.encoder.build(record.variables).requires_grad_(False)
        for name, network in (("untrained", twin), ("pretrained", encoder)):
            found = crop_features(network, store, table, layers, config.crop, config.pooling)
            if len(found.kept) < len(table):
                raise EarthSSLError(
                    f"rapid_intensification: expected features of all {len(table)} samples, got {len(found.kept)}: "
                    f"{found.dropped}; make the crops larger than a patch"
                )
            made.append((name, record.seed, {f"layer {k}": v.astype(float) for k, v in found.values.items()}))
    return made


def _rows(
    config: RapidIntensificationConfig,
    problem: Problem,
    features: Sequence[tuple[str, int | None, dict[str, np.ndarray]]],
    planet: Planet | None,
    threshold: int,
) -> list[Forecasts]:
    """Return every row, simplest first."""
    table, basins = problem.table, problem.table["basin"].to_numpy()
    base = [*BASE, *[name for name in table if str(name).startswith("in_")]]
    track = [*base, *TRACK]
    rows = [
        rapid_rows.climatology(problem, basins, problem.train, CLIMATOLOGY),
        rapid_rows.rule(problem, "dv24", threshold, f"yes/no: last 24 h ≥ {threshold} kt"),
        rapid_rows.rule(problem, "dv12", threshold / 2, f"yes/no: last 12 h ≥ {threshold / 2:g} kt"),
        rapid_rows.logistic(problem, matrix(table, ["dv12", "no_dv12"]), "logistic, last 12 h"),
        rapid_rows.binned(problem, "table, wind × last 12 h"),
        rapid_rows.logistic(problem, matrix(table, base), "logistic, wind, place, season"),
        rapid_rows.logistic(problem, matrix(table, track), TRACK_ROW),
        rapid_rows.boosted(problem, matrix(table, track), "boosted trees, track"),
    ]
    for first, last in config.sst_years:
        ocean = [f"{name} {first}–{last}" for name in OCEAN]
        label = f"SST {first}–{last}"
        one = rapid_rows.logistic(problem, matrix(table, [*track, *ocean]), f"logistic, track + {label}")
        wide = [*track, *ocean, "lat", "lon"]
        rows += [
            one,
            rapid_rows.recalibrated(problem, one, f"logistic, track + {label}, recalibrated"),
            rapid_rows.boosted(problem, matrix(table, wide), f"boosted trees, track + {label}"),
        ]
    rows.append(
        rapid_rows.logistic(problem, matrix(table, track), "logistic, track, balanced, not recalibrated", balanced=True)
    )
    scalars = matrix(table, track)
    for name, seed, sets in features:
        rows.append(rapid_rows.logistic(problem, sets, name, seed))
        both = {label: np.concatenate([scalars, values], 1) for label, values in sets.items()}
        rows.append(rapid_rows.logistic(problem, both, f"{name} + track", seed))
    if planet is not None:
        chance = np.clip(planet.intensification_forecast(table, threshold_kt=threshold), 0, 1)
        rows.append(Forecasts(KNOWN, chance, settings={"what": "ensemble of the true model from the true state"}))
    return rows
