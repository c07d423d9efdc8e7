"""Rows of a fine-tuning's table: what each method says of the test labels, from climatology to the tuned network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...ssl.common.errors import EarthSSLError
from ...ssl.model.encoder import Encoder
from ...ssl.model.tokens import season_features
from ..features.eof import Eof
from ..heads.base import Samples, choose
from ..heads.linear import RidgeHead
from ..metrics.classes import frequencies
from .head import SEASON, near
from .linear_head import LinearHead, fit_linear, fit_patches
from .samples import LabelSamples
from .tokens import FrozenTokens
from .tuning import Probe, Problem, in_units, softmax

PCA_COMPONENTS = (5, 10, 20, 40)
FEWEST_OF_A_PLACE = 5  # training labels, or the climatology of all places holds there


@dataclass(frozen=True, eq=False)
class TunedRow:
    """One row.

    Attributes:
        name: Of the method.
        seed: None where nothing is random.
        predicted: For the test samples: numbers in units, probabilities, or fields in units.
        settings: What was chosen, plain values.
    """

    name: str
    seed: int | None
    predicted: np.ndarray
    settings: Mapping[str, Any] = field(default_factory=dict)


def label_rows(samples: LabelSamples, persistence: bool) -> list[TunedRow]:
    """Return the rows that need labels only: climatology, that of each place, persistence, damped persistence."""
    test = samples.parts["test"]
    climatology = samples.base.at(samples.times[test])
    rows = [TunedRow("climatology", None, climatology), *_place_rows(samples, climatology)]
    if not persistence:
        return rows
    now, when = samples.past_values(test)
    some = samples.past[test] >= 0
    if samples.kind == "classification":
        return rows + _class_persistence(samples, climatology, now, some)
    # Of the departure from climatology: that of a seasonal value itself would be no rival.
    departure = np.nan_to_num(np.where(_wide(some, now), now - samples.base.at(when), 0.0))
    rows.append(TunedRow("persistence", None, climatology + departure))
    slope = _slope(samples)
    damped = climatology + slope * departure
    return [*rows, TunedRow("damped persistence", None, damped, {"slope": float(np.nanmean(slope))})]


def _place_rows(samples: LabelSamples, climatology: np.ndarray) -> list[TunedRow]:
    """Return the row that knows the places: their mean departure, or frequencies of the classes, in training.

    Where places differ for good, as stations do, it beats the climatology without any weather. None where most test
    labels lie at places of which training has fewer than five, as along the tracks of storms.
    """
    if samples.places is None:
        return []
    train, test = samples.parts["train"], samples.parts["test"]
    known, place = np.unique(samples.places, axis=0, return_inverse=True)
    place = place.ravel()
    count = np.bincount(place[train], minlength=len(known))
    often = count[place[test]] >= FEWEST_OF_A_PLACE
    if often.mean() < 0.5:
        return []
    if samples.kind == "classification":
        own = frequencies(samples.target[train], len(samples.classes), place[train], len(known))[place[test]]
    else:
        total = np.zeros((len(known), samples.target.shape[1]))
        np.add.at(total, place[train], samples.target[train] - samples.base.at(samples.times[train]))
        own = climatology + (total / np.maximum(count, 1)[:, None])[place[test]]
    return [TunedRow("climatology of the place", None, np.where(often[:, None], own, climatology))]


def _wide(mask: np.ndarray, like: np.ndarray) -> np.ndarray:
    return mask.reshape(-1, *(1,) * (like.ndim - 1))


def _slope(samples: LabelSamples) -> np.ndarray:
    """Return the regression of departures on the latest known ones, fitted in training, by target or cell."""
    train = samples.parts["train"]
    train = train[samples.past[train] >= 0]
    if len(train) < 2:
        return np.zeros(1)
    now, when = samples.past_values(train)
    x = (now - samples.base.at(when)) / samples.base.scale
    y = samples.departures(train)
    both = np.isfinite(x) & np.isfinite(y)
    product, power = (np.where(both, v, 0.0).sum(axis=0) for v in (x * y, x * x))
    return np.where(power > 0, product / np.maximum(power, 1e-30), 0.0)


def _class_persistence(
    samples: LabelSamples, climatology: np.ndarray, now: np.ndarray, some: np.ndarray
) -> list[TunedRow]:
    count = len(samples.classes)
    known = some & (now >= 0)
    persistence = np.where(known[:, None], np.eye(count)[np.maximum(now, 0)], climatology)
    train = samples.parts["train"]
    past, _ = samples.past_values(train)
    own = (samples.past[train] >= 0) & (past >= 0)
    table = frequencies(samples.target[train][own], count, past[own], count)
    damped = np.where(known[:, None], table[np.maximum(now, 0)], climatology)
    return [TunedRow("persistence", None, persistence), TunedRow("damped persistence", None, damped)]


def raw_rows(problem: Problem, patch: tuple[int, int, int]) -> list[TunedRow]:
    """Return the rows of the raw input with the encoder rows' head: principal components, and the cells near by."""
    samples = problem.samples
    if samples.kind == "field":
        values = _patch_values(problem, patch)
        head = fit_patches(samples, {"the patch's own cells": values}, *problem.cut(patch))
        rows = [TunedRow("raw patch [ridge]", None, _said(problem, head, patch), head.settings)]
        return [_pca_fields(problem), *rows]
    kind = "logistic" if samples.kind == "classification" else "ridge"
    head = fit_linear(samples, _components(problem))
    rows = [TunedRow(f"PCA [{kind}]", None, _said(problem, head, patch), head.settings)]
    if samples.places is not None:
        head = fit_linear(samples, {"cells of the nearest patches": _near_cells(problem, patch)})
        rows.append(TunedRow(f"raw input near the place [{kind}]", None, _said(problem, head, patch), head.settings))
    return rows


def _pca_fields(problem: Problem) -> TunedRow:
    """Return ridge regression of every cell by itself on principal components; cells with gaps are climatology."""
    samples = problem.samples
    flat = samples.departures(np.arange(len(samples.rows))).reshape(len(samples.rows), -1)
    whole = np.isfinite(flat[np.concatenate([samples.parts["train"], samples.parts["val"]])]).all(axis=0)
    head, features = RidgeHead(), _components(problem)
    blocks = {
        part: {name: Samples(values[rows], np.where(whole, np.nan_to_num(flat[rows]), 0.0), samples.last[rows])
               for name, values in features.items()}
        for part, rows in samples.parts.items()
    }  # fmt: skip
    choice = choose(head, blocks["train"], blocks["val"])
    test = samples.parts["test"]
    out = head.predict(blocks["train"][choice.candidate], blocks["test"][choice.candidate], [choice.setting])[0]
    predicted = samples.base.at(samples.times[test]) + (out * whole).reshape(len(test), *samples.target.shape[1:]) \
        * samples.base.scale  # fmt: skip
    settings = {"features": choice.candidate, "setting": choice.setting}
    return TunedRow("PCA [ridge, each cell]", None, predicted, settings)


def _season(problem: Problem) -> np.ndarray:
    """Return two harmonics of the year at each sample's last step, (sample, 4)."""
    store = problem.windows.store
    seconds = torch.from_numpy(store.times[problem.samples.last].astype(np.int64))
    return np.asarray(season_features(seconds[:, None])[:, 0, :SEASON].numpy())


def _components(problem: Problem) -> dict[str, np.ndarray]:
    """Return principal components of all variables over the window, and the season, for all samples."""
    samples, store = problem.samples, problem.windows.store
    fields = problem.windows.fields.flatten(1).numpy()
    weight = np.tile(store.grid.area.ravel(), len(store.variables))
    training = np.flatnonzero(store.splits.inside(store.times.astype("datetime64[ns]"), "train"))
    observed = np.isfinite(fields[training]).all(axis=0)
    most = min(max(PCA_COMPONENTS), len(training) - 1, int((observed & (weight > 0)).sum()))
    if most < 1:
        raise EarthSSLError("finetune: expected cells without gaps in training for the PCA baseline, got none")
    components = np.nan_to_num(Eof.fit(fields[training], weight, most).project(fields))
    season = _season(problem)
    made = {}
    for count in sorted({min(k, most) for k in PCA_COMPONENTS}):
        for steps in sorted({1, samples.window}):
            lagged = [components[samples.last - lag, :count] for lag in range(steps)]
            made[f"{count} PCs × {steps} steps"] = np.concatenate([*lagged, season], 1)
    return made


def _patch_values(problem: Problem, patch: tuple[int, int, int]) -> np.ndarray:
    """Return the cells of every patch over the whole window, all variables, 0 where missing, (sample, patch, cell)."""
    made = []
    for rows in np.array_split(np.arange(len(problem.samples.rows)), -(-len(problem.samples.rows) // 64)):
        values = problem.patches(rows, patch).values
        steps = problem.samples.window // patch[0]
        # (sample, step, place, variable, cell) -> one vector a place
        made.append(values.unflatten(1, (steps, -1)).permute(0, 2, 1, 3, 4).flatten(2).numpy())
    return np.concatenate(made)


def _near_cells(problem: Problem, patch: tuple[int, int, int]) -> np.ndarray:
    samples = problem.samples
    values = torch.from_numpy(_patch_values(problem, patch))
    places = problem.places(np.arange(len(samples.rows)))
    assert places is not None
    chosen = near(problem.patches(np.arange(1), patch), places, problem.near)
    own = values[torch.arange(len(values))[:, None], chosen].mean(1)
    return np.concatenate([own.numpy(), _season(problem)], 1)


def probe_row(problem: Problem, encoder: Encoder, name: str, seed: int | None, layers: Sequence[int]) -> TunedRow:
    """Return the row of a frozen encoder's linear probe; validation chooses layer and pooling."""
    tokens = FrozenTokens.extract(
        encoder, problem.windows, problem.samples, layers, problem.near, name.replace("[", "").replace("]", "")
    )
    probe = problem.linear(tokens, encoder.config.patch, layers)
    return TunedRow(name, seed, _said(problem, probe.head, encoder.config.patch), probe.head.settings)


def last_probe(problem: Problem, encoder: Encoder, label: str) -> Probe:
    """Return the linear probe of an encoder's last layer, which fine-tuning starts from."""
    layer = encoder.depth - 1
    tokens = FrozenTokens.extract(encoder, problem.windows, problem.samples, [layer], problem.near, label)
    return problem.linear(tokens, encoder.config.patch, [layer])


def _said(problem: Problem, head: LinearHead, patch: tuple[int, int, int]) -> np.ndarray:
    if problem.samples.kind == "classification":
        return head.predicted
    return in_units(problem, head.predicted, problem.samples.parts["test"], patch)


def network_row(
    problem: Problem, name: str, seed: int, out: np.ndarray, patch: tuple[int, int, int], settings: Mapping[str, Any]
) -> TunedRow:
    """Return the row of a network's outputs for the test samples."""
    if problem.samples.kind == "classification":
        return TunedRow(name, seed, softmax(out), settings)
    return TunedRow(name, seed, in_units(problem, out, problem.samples.parts["test"], patch), settings)
