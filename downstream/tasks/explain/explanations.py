"""Attributions of one encoder and its head for events of the test block, by every method, with their checks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from ....ssl.common.errors import EarthSSLError
from ....ssl.fields.grid import LatLonGrid
from ...evaluation.encoders import Contender
from ..enso.state_labels import StateLabels
from .attribution import evaluate, integrated_gradients, lime, occlusion, optimal_input, sliding_blocks, superpixels
from .checks import Curves, curves, randomised, rank_correlations
from .index_function import IndexFunction, TokenHead, Windows

GRADIENTS, LIME, OCCLUSION, OPTIMAL = METHODS = ("integrated gradients", "LIME", "occlusion", "optimal input × input")
COMPOSITES = ("El Niño", "La Niña")
HEAD_TOLERANCE = 0.05  # of the label's deviation: features are cached in half precision


@dataclass(frozen=True, eq=False)
class Events:
    """The test samples that are explained.

    Attributes:
        rows: Last input months, ascending, (sample,).
        sign: +1 for El Niño (label in the upper quantile of training), -1 for La Niña (lower), (sample,).
        label: Index of the season, K, (sample,).
        units: Year of each sample's season, (sample,).
        limits: Of the label, K: at most, at least.
        found: How many test samples of each composite there are, before they are thinned.
    """

    rows: np.ndarray
    sign: np.ndarray
    label: np.ndarray
    units: np.ndarray
    limits: tuple[float, float]
    found: tuple[int, int]

    @classmethod
    def choose(cls, labels: StateLabels, lead: int, samples: int, quantile: float) -> Events:
        """Return up to `samples` events of each sign, evenly spread over those of the test block.

        Raises:
            EarthSSLError: If the test block has none of a sign.
        """
        train = labels.season[labels.rows("train", lead) + lead]
        low, high = (float(v) for v in np.quantile(train, [1 - quantile, quantile]))
        test = labels.rows("test", lead)
        season = labels.season[test + lead]
        chosen, found = [], []
        for name, inside in zip(COMPOSITES, (season >= high, season <= low), strict=True):
            rows = test[inside]
            if not len(rows):
                raise EarthSSLError(
                    f"explain: expected test samples of {name} (label beyond {low:+.2f}…{high:+.2f} K, the quantile "
                    f"{quantile:g} of training), got none; lower explain.quantile or lengthen splits.test"
                )
            found.append(len(rows))
            chosen.append(rows[np.unique(np.linspace(0, len(rows) - 1, min(samples, len(rows))).round().astype(int))])
        sign = np.repeat([1.0, -1.0], [len(rows) for rows in chosen])
        rows = np.concatenate(chosen)
        order = np.argsort(rows)
        rows, sign = rows[order], sign[order]
        return cls(rows, sign, labels.season[rows + lead], labels.years(rows, lead), (low, high), (found[0], found[1]))


@dataclass(frozen=True)
class Options:
    """Settings of the methods; see `ExplainConfig`."""

    ig_steps: int = 32
    tolerance: float = 0.01
    superpixel: tuple[int, int] = (3, 5)
    lime_samples: int = 256
    occlusion: tuple[int, int] = (3, 5)
    stride: tuple[int, int] = (2, 3)
    penalty: float = 0.1
    optimal_steps: int = 60
    random_samples: int = 4
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Explanation:
    """What was found about one encoder.

    Attributes:
        kind, seed: Of the encoder.
        head: Its head.
        attribution: By method, (sample, step, variable, row, column); K, but squared deviations for the optimal input.
        optimal: Optimal input of each composite, mean over its samples' calendar months, normalised,
            (composite, step, variable, row, column).
        reached: Index that they give, and the index asked for, K, (composite, 2).
        curves: Deletion and insertion, by method and reference.
        randomised: Columns stage, method, rank_correlation (mean over the samples that were tried).
        insensitive: Rank correlation of each method's |attribution| with that of the network with all weights random,
            (sample,); NaN for samples that were not tried.
        input_alone: The same with the sizes of the input itself, (sample,).
        gap, steps: Completeness of the integrated gradients, and the points it took.
        fidelity: Mean R² of LIME's surrogates.
        index: Of each sample, and at the climatology, K, (sample, 2).
    """

    kind: str
    seed: int
    head: TokenHead
    attribution: Mapping[str, np.ndarray]
    optimal: np.ndarray
    reached: np.ndarray
    curves: Mapping[str, Curves]
    randomised: pd.DataFrame
    insensitive: Mapping[str, np.ndarray]
    input_alone: Mapping[str, np.ndarray]
    gap: float
    steps: int
    fidelity: float
    index: np.ndarray

    def maps(self, method: str) -> np.ndarray:
        """Return a method's attribution with the steps summed, (sample, variable, row, column)."""
        return np.asarray(self.attribution[method].sum(axis=1))


def explain(
    one: Contender,
    head: TokenHead,
    windows: Windows,
    events: Events,
    references: Mapping[str, np.ndarray],
    options: Options,
) -> Explanation:
    """Return the attributions of an encoder by every method, and their checks.

    Args:
        one: The encoder.
        head: Its head.
        windows: Of the events.
        events: Which they are.
        references: Maps that orders are compared with, (sample, variable, row, column) by name.
        options: Of the methods.

    Raises:
        EarthSSLError: If captum is missing, the differentiable function is not the probe's, or the integrated
            gradients do not add up.
    """
    function = IndexFunction(one.encoder, head, windows)
    at = torch.arange(len(windows))
    whole = evaluate(function, windows.values, at).numpy()
    off = float(np.abs(whole - head.forecast[events.rows]).max())
    if off > HEAD_TOLERANCE * np.nanstd(events.label):
        raise EarthSSLError(
            f"explain: expected the function of the fields to give the probe's forecasts, got {off:.3f} K beside them; "
            "remove the cached features and run again"
        )
    found = _attributions(function, windows, at, options)
    optimal, gives = _optimal(function, windows, events, options, at.numpy())
    signs = [events.sign == s for s in (1, -1)]
    attribution = {
        **found.by_method,
        OPTIMAL: windows.values.numpy() * optimal * events.sign[:, None, None, None, None],
    }
    sizes = np.abs(windows.values.numpy()).sum(axis=1)
    regions = superpixels(windows.grid, len(windows.variables), options.superpixel)
    orders = {**{name: value.sum(axis=1) for name, value in attribution.items()}, **references}
    table, insensitive = _randomised(one, head, windows, events, attribution, options)
    return Explanation(
        kind=one.kind,
        seed=one.seed,
        head=head,
        attribution=attribution,
        optimal=np.stack([optimal[own].mean(axis=0) for own in signs]),
        reached=np.array([[gives[own].mean(), events.label[own].mean()] for own in signs]),
        curves={
            name: curves(function, windows.values, at, windows.valid, maps, regions) for name, maps in orders.items()
        },
        randomised=table,
        insensitive=insensitive,
        input_alone={
            name: rank_correlations(maps.sum(axis=1), sizes, windows.known.numpy())
            for name, maps in attribution.items()
        },
        gap=found.gap,
        steps=found.steps,
        fidelity=found.fidelity,
        index=np.stack([whole, evaluate(function, torch.zeros_like(windows.values), at).numpy()], axis=1),
    )


@dataclass(frozen=True, eq=False)
class _Found:
    by_method: dict[str, np.ndarray]
    gap: float
    steps: int
    fidelity: float


def _attributions(function: IndexFunction, windows: Windows, at: Tensor, options: Options) -> _Found:
    values, valid, grid, count = windows.values[at], windows.valid[at], windows.grid, len(windows.variables)
    gradients = integrated_gradients(function, values, at, options.ig_steps, options.tolerance)
    regions = superpixels(grid, count, options.superpixel)
    surrogate, fidelity = lime(function, values, at, valid, regions, options.lime_samples, options.seed)
    hidden = occlusion(function, values, at, valid, sliding_blocks(grid, count, options.occlusion, options.stride))
    found = {GRADIENTS: gradients.attribution, LIME: surrogate, OCCLUSION: hidden}
    return _Found({k: v.numpy() for k, v in found.items()}, gradients.gap, gradients.steps, float(fidelity.mean()))


def _optimal(
    function: IndexFunction, windows: Windows, events: Events, options: Options, rows: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return the optimal input for the sign and calendar month of each sample at `rows`, and the index that it gives.

    The index asked for is the mean label of the sample's composite.
    """
    wanted = np.array([events.label[events.sign == s].mean() for s in (1, -1)])
    side = (events.sign < 0).astype(int)
    kind = side * 12 + windows.month.numpy()
    _, first, of = np.unique(kind[rows], return_index=True, return_inverse=True)
    first = rows[first]
    at = torch.from_numpy(first)
    goal = torch.from_numpy(wanted[side[first]]).float()
    found = optimal_input(function, at, windows.valid[at], goal, options.penalty, options.optimal_steps)
    return found.numpy()[of], evaluate(function, found, at).numpy()[of]


def _randomised(
    one: Contender,
    head: TokenHead,
    windows: Windows,
    events: Events,
    attribution: Mapping[str, np.ndarray],
    options: Options,
) -> tuple[pd.DataFrame, dict[str, np.ndarray]]:
    """Return how alike the maps of the network and of one with random weights are: by stage and method, and at last."""
    few = np.unique(np.linspace(0, len(windows) - 1, options.random_samples).round().astype(int))
    at = torch.from_numpy(few)
    known = windows.known.numpy()
    lines = []
    last = {name: np.full(len(windows), np.nan) for name in attribution}
    for stage, encoder in randomised(one.encoder, head.layer, options.seed):
        function = IndexFunction(encoder, head, windows)
        found = _attributions(function, windows, at, replace(options, tolerance=0.05)).by_method
        found[OPTIMAL] = windows.values.numpy()[few] * _optimal(function, windows, events, options, few)[0]
        for name, maps in found.items():
            r = rank_correlations(attribution[name][few].sum(axis=1), maps.sum(axis=1), known)
            lines.append({"stage": stage, "method": name, "rank_correlation": float(np.mean(r))})
            last[name][few] = r  # the last stage is that of all weights
    return pd.DataFrame(lines), last


def area_of(grid: LatLonGrid, known: np.ndarray) -> np.ndarray:
    """Return the share of the sphere of each known column, (column,)."""
    return np.asarray(np.broadcast_to(grid.area, known.shape)[known])
