"""Rapid intensification from crops of ERA5 around few storms, left out in turn: what crops add to wind and track.

python benchmarks/storm_crops.py CROPS.nc [--folds 5] [--seeds 3]

CROPS.nc holds fields (sample, dlat, dlon) around storms beside storm, time, lat, lon, wind (m/s), pres (hPa) and
dwind24 (m/s; NaN where unknown), as `../shared/data/era5_tc_crops_wnp2016_0.5deg_6h.nc` does: 684 crops of 25 storms of
one season. Every fold of storms is forecast by models fitted on the others, of which the next fold chooses penalties,
trees and components; crops are normalised on the fitted storms. Printed: Brier skill over the frequency of the scored
sample, area under the ROC curve and average precision, and what each row gains over the track, with 95 % intervals
over storms.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
import xarray as xr
from earthssl.downstream.features.eof import window_components
from earthssl.downstream.features.random_features import random_relu
from earthssl.downstream.metrics.events import log_loss
from earthssl.downstream.results.row import Role, Row
from earthssl.downstream.results.scores import tables
from earthssl.downstream.storms.storm_table import TableConfig, predictor_columns, storm_table
from earthssl.downstream.tasks.rapid_intensification import models
from earthssl.downstream.tasks.rapid_intensification.models import Chances, Problem
from earthssl.downstream.tasks.rapid_intensification.samples import Predictors, samples_of
from earthssl.downstream.tasks.rapid_intensification.scores import event_target
from earthssl.ssl.common.randomness import key
from earthssl.ssl.fields.batch import from_fields
from earthssl.ssl.fields.grid import LatLonGrid
from earthssl.ssl.model.encoder import EncoderConfig
from earthssl.ssl.model.tokens import PLACE, patchify

FIELDS = ("u10", "v10", "z500")
SHAPE = EncoderConfig("nano", 1, (1, 10, 10))  # 5° × 5°
COMPONENTS = (5, 10, 20, 40)
THRESHOLD_KT = 30.0
BASIN = "WP"
Candidates = Mapping[str, np.ndarray]  # features by name; validation chooses


def main() -> None:
    """Print the scores of all rows, and their gains over the track."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("crops")
    parser.add_argument("--folds", type=int, default=5, help="of storms, dealt in the order of their names")
    parser.add_argument("--seeds", type=int, default=3, help="of trees, random features and untrained encoders")
    options = parser.parse_args()
    torch.set_num_threads(1)
    columns = TableConfig(
        options.crops, wind="wind", wind_units="m/s", change="dwind24", basin=BASIN, predictors={"pressure": ["pres"]}
    )
    samples = samples_of(storm_table(columns).tracks, told=True)
    fields, grid = crops_of(options.crops, samples[["storm", "time"]].to_records(index=False))
    storms = samples["storm"].unique()
    fold = dict(zip(storms, np.arange(len(storms)) % options.folds, strict=True))
    group = samples["storm"].map(fold).to_numpy()
    said: dict[tuple[str, int], np.ndarray] = {}
    for number in range(options.folds):
        part = np.full(len(samples), "train", dtype="<U5")
        part[group == number], part[group == (number + 1) % options.folds] = "test", "val"
        pressure = predictor_columns(samples, ["pres"], part == "train")
        known = Predictors.of(samples, [BASIN], {}, {"pressure": pressure})
        problem = Problem(samples, part, known, [BASIN], THRESHOLD_KT)
        for name, seed, found in forecasts(problem, fields, grid, options.seeds):
            said.setdefault((name, seed), np.full(len(samples), np.nan))[part == "test"] = found.test
    event = problem.event
    hit = samples["storm"][event == 1].nunique()
    print(f"{len(samples)} crops of {len(storms)} storms, {event.sum()} events of {hit} storms")
    target = event_target("30 kt", event, np.zeros(len(event), int), samples["storm"].to_numpy())
    rows = [Row(name, Role.BASELINE, {"30 kt": found}, seed) for (name, seed), found in said.items()]
    scores, differences = tables([target], rows, draws=1000, references=[models.TRACK])
    shown = scores[scores["seed"] == ""]
    for table, value in ((shown, "score"), (differences, f"gain over {models.TRACK}")):
        cell = table.apply(lambda one: f"{one['value']:+.3f} [{one['low']:+.3f}, {one['high']:+.3f}]", axis=1)
        print(f"\n{value}")
        print(table.assign(cell=cell).pivot(index="row", columns="metric", values="cell").to_string())


def crops_of(path: str, asked: np.ndarray) -> tuple[np.ndarray, LatLonGrid]:
    """Return the fields of samples by storm and time, north first, (sample, field, row, column), and their grid."""
    with xr.open_dataset(path) as data:
        keys = zip(data["storm"].astype(str).to_numpy(), data["time"].to_numpy(), strict=True)
        at = {key: number for number, key in enumerate(keys)}
        rows = [at[str(storm), np.datetime64(time, "ns")] for storm, time in asked]
        fields = np.stack([data[name].to_numpy()[rows, ::-1] for name in FIELDS], axis=1)
        lat, lon = data["dlat"].to_numpy()[::-1], data["dlon"].to_numpy()
    return fields.astype(np.float32), LatLonGrid(lat, lon - lon[0])


def forecasts(problem: Problem, fields: np.ndarray, grid: LatLonGrid, seeds: int) -> Iterator[tuple[str, int, Chances]]:
    """Yield name, seed and forecast of every row for one fold."""
    train, known = problem.inside("train"), problem.predictors
    mean = fields[train].mean(axis=0)
    scale = (fields[train] - mean).std(axis=(0, 2, 3), keepdims=True)
    normal = (fields - mean) / scale
    flat = normal.reshape(len(normal), -1)
    small = normal.reshape(*normal.shape[:2], 10, 5, 10, 5).mean(axis=(3, 5)).reshape(len(normal), -1)
    pressure, place = known.table["pressure"], known.place
    yield models.CLIMATOLOGY, 0, models.climatology(problem)
    yield models.TRACK, 0, models.logistic(problem, known.track)
    yield f"{models.TRACK} + pressure", 0, models.logistic(problem, np.hstack([known.track, pressure]))
    for seed in range(seeds):
        yield models.BOOSTED, seed, models.boosting(problem, known.track, seed)
        more = np.hstack([known.track, pressure, place])
        yield f"{models.BOOSTED} + pressure + place", seed, models.boosting(problem, more, seed)
    sets: list[tuple[str, int, Candidates]] = [
        ("raw crop, 2.5° cells", 0, {"cells": small}),
        ("PCA of the crop", 0, window_components(flat, train, COMPONENTS)),
    ]
    for seed in range(seeds):
        sets.append(("random features of the raw crop", seed, {"512 ReLU": random_relu(small, train, 512, seed)}))
        sets.append(("untrained tokens", seed, untrained_tokens(normal, grid, seed)))
    for name, seed, features in sets:
        yield name, seed, chosen(problem, features, lambda values: values)
        beside = np.hstack([known.track, pressure])
        yield f"{name} + track + pressure", seed, chosen(problem, features, lambda v, b=beside: np.hstack([v, b]))


def chosen(problem: Problem, features: Candidates, given: Callable[[np.ndarray], np.ndarray]) -> Chances:
    """Return the logistic regression on the features of least log loss on validation."""
    found = [models.logistic(problem, given(values), variant=name) for name, values in features.items()]
    event = problem.event[problem.inside("val")]
    return min(found, key=lambda one: log_loss(one.val, event))


def untrained_tokens(normal: np.ndarray, grid: LatLonGrid, seed: int) -> Candidates:
    """Return mean and middle token of an untrained encoder by layer; no token is told a place on the globe."""
    torch.manual_seed(key(seed, "init") & (2**63 - 1))
    encoder = SHAPE.build(FIELDS).eval()
    values = torch.from_numpy(normal[:, None])
    batch = from_fields(
        values, torch.zeros(len(values), 1, dtype=torch.int64), torch.zeros(len(values), dtype=torch.int64),
        torch.ones(len(FIELDS), *grid.shape, dtype=torch.bool), FIELDS, grid,
    )  # fmt: skip
    with torch.no_grad():
        every = encoder.layers(patchify(batch, SHAPE.patch), hide=frozenset({PLACE}))
    found = {}
    for layer, tokens in enumerate(every):
        found[f"layer {layer + 1}, mean"] = tokens.mean(1).numpy()
        found[f"layer {layer + 1}, middle"] = tokens[:, tokens.shape[1] // 2].numpy()
    return found


if __name__ == "__main__":
    main()
