"""Rows of the storm tiles: climatologies, one logistic regression on features of tiles, and networks from scratch.

The regression is shared by all tiles, and given the log odds of the climatology of latitude band and season beside its
features: a row below the climatology has not merely missed where the tropics are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from scipy.special import expit
from torch import Tensor, nn

from ....ssl.model.encoder import EncoderConfig
from ...evaluation.task import Features
from ...features.patches import PatchFeatures, PatchGrid, pca_features, with_neighbours
from ...features.store_windows import StoreWindows
from ...heads.base import Samples, choose
from ...heads.linear import LogisticHead
from ...metrics.classes import frequencies
from ...metrics.events import best_threshold
from ...results.row import Role, Row
from ...training.from_scratch import SCRATCH, ScratchConfig, learn
from ...training.patch_network import PatchNetwork
from .labels import CALLS, TileLabels

PCA, EXTREMES = "PCA of the tile [logistic]", "minimum, maximum, mean, spread [logistic]"
BASE_RATE = "base rate"


def called_from(labels: TileLabels, chances: np.ndarray, storms: np.ndarray) -> dict[tuple[str, str], float]:
    """Return the chance from which on calls have the best balanced accuracy, as `Row.threshold`."""
    return {(labels.name, CALLS): best_threshold(chances.ravel(), storms.ravel().astype(int), CALLS)}


def climatology_rows(labels: TileLabels) -> Iterator[Row]:
    """Yield the rows that see no field; thresholds from frequencies of train, chances from train and validation."""
    val, test = labels.inside("val"), labels.inside("test")
    first, final = (labels.climatologies(labels.inside(*parts)) for parts in (("train",), ("train", "val")))
    for name in final:
        threshold = called_from(labels, first[name][val], labels.storms[val])
        forecast = {labels.name: final[name][test]}
        yield Row(name, Role.BASELINE, forecast, reference=name != BASE_RATE, threshold=threshold)


def logistic_row(
    labels: TileLabels,
    features: Features,
    costs: Sequence[float],
    name: str,
    role: Role,
    seed: int | None = None,
    weeks: np.ndarray | None = None,
) -> Row:
    """Return a row by logistic regression: features and C chosen on validation, refitted on train and validation.

    Args:
        labels: The storms.
        features: Candidates by name, each (n, place, feature) at all sample times.
        costs: C to choose from.
        name, role, seed: Of the row.
        weeks: Training weeks whose labels it may read, nothing being refitted; None: all.
    """
    training, val, test = labels.training(weeks), labels.inside("val"), labels.inside("test")
    head, odds = LogisticHead(tuple(costs)), labels.log_odds(training)[..., None]
    places = labels.storms.shape[1]

    def given(key: str, chosen: np.ndarray) -> Samples:
        return labels.samples(np.concatenate([features[key], odds], axis=-1), chosen)

    storms = labels.storms[training]
    if weeks is not None and (storms.all() or not storms.any()):  # Laplace's rule
        seen = frequencies(storms.ravel().astype(int), 2)[0, 1]
        return Row(name, role, {labels.name: np.full((int(test.sum()), places), seen)}, seed)
    train, validated = ({key: given(key, chosen) for key in features} for chosen in (training, val))
    choice = choose(head, train, validated)
    key, setting = choice.candidate, [choice.setting]
    on_val = head.predict(train[key], validated[key], setting)[0][:, 1]
    fit = given(key, training | val) if weeks is None else train[key]
    chances = head.predict(fit, given(key, test), setting)[0][:, 1].reshape(-1, places)
    return Row(
        name, role, {labels.name: chances}, seed,
        {"features": key, "C": choice.setting, "validation_brier": choice.error},
        threshold=called_from(labels, on_val, labels.storms[val]),
        features={key: features[key]},
    )  # fmt: skip


def component_features(
    cells: np.ndarray, grid: PatchGrid, labels: TileLabels, tiles: np.ndarray, counts: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return leading principal components of each tile, alone and beside those of its eight neighbours.

    The neighbours are for fairness: an encoder's token has looked at them. Components are fitted on training times.

    Args:
        cells: See `raw_cells`.
        grid: How the globe is cut.
        labels: Says which times are training.
        tiles: Number of each place's tile, (place,).
        counts: Numbers of components; those beyond what the tiles carry are all there are.
    """
    raw = PatchFeatures(np.arange(len(cells)), cells)
    found = pca_features(raw, np.flatnonzero(labels.inside("train")), grid.area, max(counts)).values
    columns, periodic = -(-grid.store.grid.shape[1] // grid.patch[1]), grid.store.grid.periodic
    made = {}
    for count in sorted({min(count, found.shape[-1]) for count in counts}):
        own = found[..., :count]
        made[f"{count} components"] = own
        made[f"{count} components of it and its neighbours"] = with_neighbours(own, tiles, columns, periodic)
    return made


def extreme_features(fields: np.ndarray, grid: PatchGrid, steps: np.ndarray) -> np.ndarray:
    """Return minimum, maximum, mean and standard deviation of each variable in each tile, (n, place, 4 variable)."""
    cells = grid.cut(fields[steps])
    cells = cells.reshape(*cells.shape[:2], fields.shape[1], -1)
    known = np.ma.masked_invalid(cells)
    parts = [known.min(axis=-1), known.max(axis=-1), known.mean(axis=-1), known.std(axis=-1)]
    return np.concatenate([part.filled(0) for part in parts], axis=-1)


def scratch_rows(
    config: ScratchConfig,
    shape: EncoderConfig,
    windows: StoreWindows,
    labels: TileLabels,
    seeds: int,
    weeks: np.ndarray | None = None,
) -> Iterator[Row]:
    """Yield one row a seed: steps and threshold chosen on validation, then trained anew on train + validation.

    The network says the departure of each tile's log odds from the climatology's, which is 0 at the start.

    Args:
        config: How to train.
        shape: Of the encoder, as it is pretrained.
        windows: Of the store.
        labels: The storms.
        seeds: How many networks.
        weeks: Training weeks whose labels they may read, nothing being trained anew; None: all.
    """
    training = labels.training(weeks)
    storms, offset = torch.from_numpy(labels.storms).float(), torch.from_numpy(labels.log_odds(training)).float()
    train, val, test, both = (
        np.flatnonzero(own)
        for own in (training, labels.inside("val"), labels.inside("test"), training | labels.inside("val"))
    )

    def loss(network: PatchNetwork, chosen: np.ndarray) -> Tensor:
        own = torch.from_numpy(chosen)
        logits = network(windows.batch(labels.steps[chosen]))[..., 0] + offset[own]
        return nn.functional.binary_cross_entropy_with_logits(logits, storms[own])

    def chances(network: PatchNetwork, chosen: np.ndarray) -> np.ndarray:
        logits = windows.outputs(network, labels.steps[chosen])[..., 0] + offset.numpy()[chosen]
        return np.asarray(expit(logits.astype(float)))

    looks: list[tuple[float, dict[tuple[str, str], float]]] = []  # error and threshold at each

    def score(network: PatchNetwork) -> float:
        found = chances(network, val)
        error = float(((found - labels.storms[val]) ** 2).mean())
        if np.isfinite(error):
            looks.append((error, called_from(labels, found, labels.storms[val])))
        return error

    def new() -> PatchNetwork:
        return PatchNetwork(shape.build(windows.store.variables), 1)

    for seed in range(seeds):
        looks.clear()
        found = learn(new, loss, score, train, both if weeks is None else None, config, seed)
        _, threshold = min(looks, key=lambda one: one[0])
        chosen = {"features": "labels only", "steps": found.steps, "validation_brier": 2 * found.score}
        forecast = {labels.name: chances(found.network, test)}
        yield Row(SCRATCH, Role.SCRATCH, forecast, seed, chosen, threshold=threshold)
